// The page: a conversation over /api/live, its transcript, its numbers and its memory.

import { Sound, level } from "./sound.js";
import { Plot, mark } from "./plots.js";

const LATE_MS = 160;
const $ = (id) => document.getElementById(id);
const latency = new Plot($("latency"), { most: 250, unit: " ms", floor: 1.2 * LATE_MS, line: LATE_MS });
const norm = new Plot($("norm"), { most: 180 });
const strength = new Plot($("strength"), { most: 180 });

let socket = null;
let sound = null;
let savesMemories = false;
let token = sessionStorage.getItem("token");

if (location.hash.length > 1) {
  // The server's link ends with the token; browsers do not send that part, and it leaves the address bar.
  token = location.hash.slice(1);
  sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname);
}

function say(text, isAlarm = false) {
  $("status").textContent = text;
  $("status").classList.toggle("alarm", isAlarm);
}

function setTalking(isTalking) {
  $("start").textContent = isTalking ? "Stop" : "Start talking";
  for (const id of ["without-memory", "forget"]) $(id).disabled = !isTalking;
  $("save").disabled = !isTalking || !savesMemories;
  for (const button of document.querySelectorAll("#saved button.load")) button.disabled = !isTalking;
  if (!isTalking) $("user-level").value = $("moshi-level").value = 0;
}

function send(type, content = {}) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type, ...content }));
}

/** Whether the server lets us in; asks for a token where it does not. */
async function access() {
  const response = await fetch("/api/access", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (response.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
  }
  if (!response.ok) throw new Error(await response.text());
  savesMemories = (await response.json()).saves_memories;
  $("no-saved").textContent = savesMemories ? "None yet." : "This server saves none: it was started without --memories.";
}

async function start() {
  $("start").disabled = true;
  try {
    await access();
    sound = new Sound();
    say("Waiting for the microphone.");
    await sound.open(onMicrophone);
    connect();
  } catch (error) {
    stop(error.message, true);
  }
  $("start").disabled = false;
}

function connect() {
  for (const plot of [latency, norm, strength]) plot.clear();
  $("transcript").textContent = "";
  $("without-memory").checked = false;
  say("Connecting.");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const protocols = token ? ["moshi-ttt", `token.${token}`] : ["moshi-ttt"];
  socket = new WebSocket(`${scheme}://${location.host}/api/live`, protocols);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => send("hello", { sample_rate_hz: 24000 });
  socket.onmessage = ({ data }) => (typeof data === "string" ? onEvent(JSON.parse(data)) : onSound(new Int16Array(data)));
  socket.onclose = () => stop("The connection broke.", true);
  setTalking(true);
}

function stop(text, isAlarm = false) {
  if (socket) socket.onclose = null;
  socket?.close(1000);
  sound?.close();
  socket = sound = null;
  setTalking(false);
  say(text, isAlarm);
}

function onMicrophone(frame) {
  $("user-level").value = level(frame, 32767);
  if (socket?.readyState === WebSocket.OPEN) socket.send(frame.buffer);
}

function onSound(samples) {
  $("moshi-level").value = level(samples, 32767);
  sound?.play(samples);
}

const EVENTS = {
  queue: ({ place }) => say(`All rows are taken. You are number ${place} in the queue.`),
  ready: () => {
    say("Connected. Speak.");
    if (savesMemories) send("list");
  },
  frame: onFrame,
  memory: ({ layers }) => showMemory(layers),
  end: ({ code, text }) => stop(text, code !== "expired"),
  refused: ({ text }) => say(text, true),
  memory_on: ({ on }) => say(on ? "The memory answers again." : "The memory is silent, and goes on learning."),
  forget: () => begin("All is forgotten: a fresh conversation."),
  load: () => begin("The memory is loaded into a fresh conversation."),
  save: ({ memories }) => {
    showSaved(memories);
    say("The memory is saved.");
  },
  list: ({ memories }) => showSaved(memories),
  delete: ({ memories }) => {
    showSaved(memories);
    say("The saved memory is deleted.");
  },
};

/** A row is fresh, and its memory answers. */
function begin(text) {
  $("without-memory").checked = false;
  say(text);
}

function onEvent(event) {
  EVENTS[event.type](event);
}

function onFrame({ number, text, latency_ms, late_frames, dropped_frames }) {
  latency.add([latency_ms]);
  if (number % 6 === 0) {
    $("latency-text").textContent =
      `${Math.round(latency_ms)} ms in the server now; of ${number} frames ${late_frames} late (over ${LATE_MS} ms), ` +
      `${dropped_frames} dropped`;
  }
  if (text) {
    $("transcript").append(text);
    $("transcript").scrollTop = $("transcript").scrollHeight;
  }
}

function showMemory(layers) {
  norm.add(layers.map((layer) => layer.norm));
  strength.add(layers.map((layer) => layer.write_strength));
  const rows = layers.map((layer, i) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = layer.layer;
    mark(name, i);
    row.append(name);
    for (const value of [short(layer.norm), short(layer.write_strength), size(layer.num_bytes)]) {
      row.insertCell().textContent = value;
    }
    return row;
  });
  $("memory-table").tBodies[0].replaceChildren(...rows);
  const age = layers.length ? Math.round(layers[0].age_sec) : 0;
  $("memory-age").textContent = layers.length ? `It has heard ${age} s.` : "This model has no memory.";
}

function short(value) {
  return value === null ? "none" : value.toPrecision(3);
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toPrecision(3)} kB` : `${(bytes / 1e6).toPrecision(3)} MB`;
}

function showSaved(memories) {
  $("no-saved").hidden = memories.length > 0;
  $("saved").replaceChildren(...memories.map(savedItem));
  setTalking(socket !== null);
}

function savedItem({ id, saved_sec, bytes }) {
  const item = document.createElement("li");
  const when = new Date(1000 * saved_sec).toLocaleString();
  const name = document.createElement("span");
  name.textContent = `${when}, ${size(bytes)}`;
  item.append(name, button("Load", `Load the memory of ${when}`, () => send("load", { id })));
  item.append(button("Delete", `Delete the memory of ${when}`, () => send("delete", { id })));
  return item;
}

function button(text, label, action) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: text, onclick: action, className: text.toLowerCase() });
  made.setAttribute("aria-label", label);
  return made;
}

$("start").onclick = () => (socket ? stop("Not connected.") : start());
$("without-memory").onchange = ({ target }) => send("memory_on", { on: !target.checked });
$("save").onclick = () => send("save");
$("forget").onclick = () => send("forget");
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("token", token);
  $("token-form").hidden = true;
  start();
};
