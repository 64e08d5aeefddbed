// Microphone and speaker of one conversation.

const RATE_HZ = 24000;

/** A level from 0 to 1 for a meter: -60 dB to 0 dB. */
export function level(samples, fullScale) {
  let sum = 0;
  for (const sample of samples) sum += (sample / fullScale) ** 2;
  const decibels = 10 * Math.log10(sum / samples.length + 1e-9);
  return Math.max(0, Math.min(1, 1 + decibels / 60));
}

export class Sound {
  /** Asks for the microphone. `onFrame` gets an Int16Array of 80 ms at a time. */
  async open(onFrame) {
    if (!navigator.mediaDevices) {
      throw new Error("The browser gives the microphone over https or on localhost only.");
    }
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
    });
    this.input = new AudioContext(); // at the device's rate: not every browser resamples a microphone
    this.output = new AudioContext({ sampleRate: RATE_HZ });
    await Promise.all([this.input, this.output].map((context) => context.audioWorklet.addModule("worklets.js")));
    const microphone = new AudioWorkletNode(this.input, "microphone", { numberOfOutputs: 0 });
    microphone.port.onmessage = ({ data }) => onFrame(data);
    this.input.createMediaStreamSource(this.stream).connect(microphone);
    this.speaker = new AudioWorkletNode(this.output, "speaker", { numberOfInputs: 0, outputChannelCount: [1] });
    this.speaker.connect(this.output.destination);
  }

  /** Plays 16-bit samples. */
  play(samples) {
    this.speaker.port.postMessage(Float32Array.from(samples, (sample) => sample / 32767));
  }

  close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.input?.close();
    this.output?.close();
  }
}
