// The recorder: microphone, level and player are the browser's; what is kept, and what comes next,
// is the server's to say. `element` and `server` are Gradio's.
const root = element.querySelector(".recorder");
const find = (selector) => root.querySelector(selector);
const audio = find("audio");
const SILENT_DBFS = -60;
const TAIL_SECONDS = 0.2; // after stop: a finger is quicker than a last syllable
const RETRY_SECONDS = 2;
const LONG_CHARACTERS = 120; // of a sentence, from which it is written smaller

const now = { speaker: null, text: null, kept: false, state: {}, unsent: null, busy: false };

// ── the server ──────────────────────────────────────────────────────────────────────────────

async function ask(name, given = {}) {
  const answer = await server[name]({ speaker: now.speaker, ...given });
  if (!answer) throw new Error("no answer");
  return answer;
}

async function asked(name, given) {
  try {
    const answer = await ask(name, given);
    if (answer.error) say("bad", answer.error);
    return answer.error ? null : answer;
  } catch {
    say("bad", "The program does not answer. Start it again, and press once more.");
    return null;
  }
}

// ── what is shown ───────────────────────────────────────────────────────────────────────────

function say(kind, ...lines) {
  const shown = lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.className = kind;
    paragraph.textContent = line;
    return paragraph;
  });
  find(".verdict").replaceChildren(...shown);
}

function phase(name) {
  root.dataset.phase = name;
  const isRecording = name === "recording";
  find(".record .word").textContent = isRecording ? "Stop" : now.kept ? "Again" : "Record";
  find(".record").setAttribute("aria-label", isRecording ? "Stop" : "Record");
  find(".record").disabled = name === "sending" || !now.text;
  for (const one of ["back", "skip", "next"]) {
    find(`[data-do="${one}"]`).disabled = name !== "ready";
  }
  if (now.kept || !now.text) find('[data-do="skip"]').disabled = true;
}

function minutes(seconds) {
  return seconds < 60 ? `${Math.round(seconds)} seconds` : `${(seconds / 60).toFixed(1)} minutes`;
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function showState(state) {
  now.state = state;
  const names = [...new Set([...state.speakers, ...(now.speaker ? [now.speaker] : [])])];
  find("select").replaceChildren(...names.map((name) => new Option(name, name)));
  find("select").value = now.speaker ?? "";
  const share = (100 * (state.read ?? 0)) / (state.sentences || 1);
  find(".progress span").style.width = `${share}%`;
  const skipped = state.skipped ? `, ${state.skipped} skipped` : "";
  find(".count").textContent = `${state.read} of ${counted(state.sentences, "sentence")} read${skipped}`;
  const splits = Object.entries(state.splits)
    .filter(([, takes]) => takes)
    .map(([name, takes]) => `${name} ${takes}`);
  find(".summary").textContent = state.takes
    ? `${counted(state.takes, "take")}, ${minutes(state.seconds)}, ` +
      `${counted(state.speakers.length, "speaker")}; ${splits.join(", ")}`
    : "Nothing yet.";
  find(".train").hidden = !state.takes;
  find(".command code").textContent = state.command;
}

function write(text) {
  now.text = text;
  find(".sentence").textContent = text ?? "All sentences are read. Thank you!";
  find(".sentence").classList.toggle("long", text?.length > LONG_CHARACTERS);
}

function showSentence(text) {
  now.kept = false;
  write(text);
  find(".taken").hidden = true;
  find(".hint").hidden = !text || now.state.read > 0;
  say("good");
  phase("ready");
}

async function showTake(row) {
  now.kept = true;
  write(row.text);
  find(".hint").hidden = true;
  verdict(row);
  const answer = await asked("sound", { text: row.text });
  audio.src = answer?.flac ? `data:audio/flac;base64,${answer.flac}` : "";
  find(".taken").hidden = false;
  phase("ready");
}

function verdict(take) {
  if (take.refusal) say("bad", take.refusal);
  else if (take.warnings.length) say("warning", ...take.warnings);
  else say("good", `Kept: ${take.seconds.toFixed(1)} s, and nothing is wrong with it.`);
}

// ── speakers ────────────────────────────────────────────────────────────────────────────────

async function begin(speaker) {
  const before = now.speaker;
  now.speaker = speaker || null;
  const state = await asked("state");
  if (!state) {
    now.speaker = before;
    return;
  }
  now.speaker = state.speaker ?? null;
  now.state = state;
  askName(!now.speaker);
  if (now.speaker) {
    showState(state);
    showSentence(state.next);
  }
}

function askName(isAsked) {
  find(".name").hidden = !isAsked;
  for (const part of [".card", ".set", ".progress", ".count"]) find(part).hidden = isAsked;
  find(".who").hidden = isAsked && !now.speaker;
  if (isAsked) find("#new-name").focus();
}

// ── the microphone ──────────────────────────────────────────────────────────────────────────

const LISTENER = `registerProcessor("listener", class extends AudioWorkletProcessor {
  process(inputs) {
    if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice());
    return true;
  }
});`;
const microphone = { context: null, parts: null, samples: 0, peak: SILENT_DBFS, frame: 0 };

async function openMicrophone() {
  if (microphone.context) return microphone.context.resume();
  if (!navigator.mediaDevices) {
    throw new Error(
      "This browser gives no microphone to a page of another machine without https."
    );
  }
  // As it is: what browsers do for telephone calls changes the voice, and hides clipping.
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const context = new AudioContext();
  const code = URL.createObjectURL(new Blob([LISTENER], { type: "text/javascript" }));
  await context.audioWorklet.addModule(code);
  const listener = new AudioWorkletNode(context, "listener", { channelCount: 1 });
  context.createMediaStreamSource(stream).connect(listener);
  listener.port.onmessage = (message) => hear(message.data);
  microphone.context = context;
}

function hear(samples) {
  let power = 0;
  let highest = 0;
  for (const sample of samples) {
    power += sample * sample;
    highest = Math.max(highest, Math.abs(sample));
  }
  const level = 10 * Math.log10(power / samples.length + 1e-12);
  microphone.level = Math.max(level, (microphone.level ?? SILENT_DBFS) - 1);
  microphone.peak = Math.max(20 * Math.log10(highest + 1e-6), microphone.peak - 0.1);
  if (microphone.parts) {
    microphone.parts.push(samples);
    microphone.samples += samples.length;
    if (highest >= 0.99) say("warning", "Too loud: it is clipped.");
    if (microphone.samples > now.state.longest_seconds * microphone.context.sampleRate) stop();
  }
  if (!microphone.frame) microphone.frame = requestAnimationFrame(showLevel);
}

function showLevel() {
  microphone.frame = 0;
  const share = (level) => Math.min(1, Math.max(0, 1 - level / SILENT_DBFS));
  find(".level").style.clipPath = `inset(0 ${100 * (1 - share(microphone.level))}% 0 0)`;
  find(".peak").style.left = `calc(${100 * share(microphone.peak)}% - 2px)`;
  find(".peak").style.opacity = microphone.peak > SILENT_DBFS ? 1 : 0;
  find(".meter").setAttribute("aria-valuenow", Math.round(microphone.level));
  if (microphone.parts) {
    const seconds = microphone.samples / microphone.context.sampleRate;
    find(".record .word").textContent = `Stop ${seconds.toFixed(1)}`;
  }
}

async function start() {
  audio.pause();
  try {
    await openMicrophone();
  } catch (error) {
    const denied = "The microphone may not be used. Allow it in the browser, and press again.";
    say("bad", error.name === "NotAllowedError" ? denied : `No microphone: ${error.message}`);
    return;
  }
  find(".taken").hidden = true;
  find(".hint").hidden = true;
  say("good");
  microphone.samples = 0;
  microphone.parts = [];
  phase("recording");
}

async function stop() {
  if (root.dataset.phase !== "recording") return;
  phase("sending");
  await new Promise((resume) => setTimeout(resume, 1000 * TAIL_SECONDS));
  const parts = microphone.parts;
  microphone.parts = null;
  const whole = new Int16Array(microphone.samples);
  let at = 0;
  for (const part of parts) {
    for (const sample of part) {
      whole[at++] = Math.max(-32768, Math.min(32767, Math.round(32768 * sample)));
    }
  }
  now.unsent = { text: now.text, rate: microphone.context.sampleRate, samples: base64(whole) };
  await send();
}

function base64(samples) {
  const bytes = new Uint8Array(samples.buffer);
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) {
    text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  }
  return btoa(text);
}

// A take that could not be handed over stays here, and is sent until it was.
async function send() {
  let answer;
  try {
    answer = await ask("take", now.unsent);
  } catch {
    say("bad", "The program does not answer. This take is kept here: start the program again.");
    setTimeout(send, 1000 * RETRY_SECONDS);
    return;
  }
  const { text } = now.unsent;
  now.unsent = null;
  if (answer.error) {
    say("bad", answer.error);
    phase("ready");
    return;
  }
  showState(answer);
  if (answer.take.refusal) {
    now.kept = false;
    verdict(answer.take);
    phase("ready");
    return;
  }
  await showTake({ text, ...answer.take });
}

// ── what is pressed ─────────────────────────────────────────────────────────────────────────

const actions = {
  record: () => (root.dataset.phase === "recording" ? stop() : start()),
  next: () => showSentence(now.state.next),
  back: async () => {
    const answer = await asked("back", { text: now.kept ? now.text : null });
    if (answer?.row) await showTake(answer.row);
  },
  skip: async () => {
    const state = await asked("skip", { text: now.text });
    if (state) {
      showState(state);
      showSentence(state.next);
    }
  },
  "new-speaker": () => askName(find(".name").hidden),
  copy: async () => {
    await navigator.clipboard?.writeText(find(".command code").textContent);
    find('[data-do="copy"]').textContent = "Copied";
  },
};

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || button.disabled) return;
  if (event.detail) button.blur(); // of a mouse or a finger: keys are the page's again
  actions[button.dataset.do]();
});

find("select").addEventListener("change", (event) => begin(event.target.value));

find(".name").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = find("#new-name").value.trim();
  if (name) begin(name);
  find("#new-name").value = "";
});

const KEYS = { " ": "record", ArrowLeft: "back", ArrowRight: "next", Enter: "next" };
document.addEventListener("keydown", (event) => {
  const isTyped = event.target.closest?.("input, select, button, audio, textarea");
  const name = KEYS[event.key];
  if (isTyped || !name || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = find(`[data-do="${name}"]`);
  if (button.disabled || button.closest("[hidden]")) return;
  event.preventDefault();
  actions[name]();
});

window.addEventListener("beforeunload", (event) => {
  if (now.unsent || microphone.parts) event.preventDefault();
});

phase("start");
begin(null);
