// The two ends of sound, in the audio thread: the microphone as frames of 24 kHz, and frames to the speaker.

const RATE_HZ = 24000;
const FRAME = 1920;
const PHASES = 256;
const HALF_WIDTH = 16; // zero crossings of the low-pass on each side

/** Samples of any rate in, samples of 24 kHz out: a windowed sinc, tabled by the phase of an output sample. */
class Resampler {
  constructor(inputHz) {
    this.step = inputHz / RATE_HZ;
    const cutoff = Math.min(1, 1 / this.step) * 0.95;
    this.half = Math.ceil(HALF_WIDTH / cutoff);
    this.taps = Array.from({ length: PHASES }, (_, phase) => this.tapsOf(phase / PHASES, cutoff));
    this.input = new Float32Array(2 * this.half);
    this.position = this.half; // of the next output sample, in samples of the input
  }

  tapsOf(offset, cutoff) {
    const taps = new Float32Array(2 * this.half);
    let sum = 0;
    for (let i = 0; i < taps.length; i++) {
      const t = i - this.half + 1 - offset;
      const x = Math.PI * cutoff * t;
      const window = Math.abs(t) < this.half ? 0.5 + 0.5 * Math.cos((Math.PI * t) / this.half) : 0;
      taps[i] = (x === 0 ? 1 : Math.sin(x) / x) * window;
      sum += taps[i];
    }
    return taps.map((tap) => tap / sum);
  }

  push(samples) {
    const input = new Float32Array(this.input.length + samples.length);
    input.set(this.input);
    input.set(samples, this.input.length);
    const output = [];
    while (Math.floor(this.position) + this.half + 1 < input.length) {
      const whole = Math.floor(this.position);
      const taps = this.taps[Math.floor((this.position - whole) * PHASES)];
      let sum = 0;
      for (let i = 0; i < taps.length; i++) sum += taps[i] * input[whole - this.half + 1 + i];
      output.push(sum);
      this.position += this.step;
    }
    const kept = Math.max(0, Math.floor(this.position) - this.half);
    this.input = input.slice(kept);
    this.position -= kept;
    return output;
  }
}

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate);
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
  }

  process([[channel]]) {
    for (const sample of channel ? this.resampler.push(channel) : []) {
      this.frame[this.filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.filled === FRAME) {
        this.port.postMessage(this.frame.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

/** Plays frames in order; waits for two of them at the start and whenever it ran dry, and drops what is a second late. */
class Speaker extends AudioWorkletProcessor {
  constructor() {
    super();
    this.frames = [];
    this.offset = 0;
    this.isPlaying = false;
    this.port.onmessage = ({ data }) => {
      this.frames.push(data);
      if (this.frames.length > 12) this.frames.splice(0, this.frames.length - 3);
      if (this.frames.length >= 2) this.isPlaying = true;
    };
  }

  process(_, [[channel]]) {
    for (let i = 0; i < channel.length && this.isPlaying; i++) {
      channel[i] = this.frames[0][this.offset++];
      if (this.offset === this.frames[0].length) {
        this.frames.shift();
        this.offset = 0;
        this.isPlaying = this.frames.length > 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
registerProcessor("speaker", Speaker);
