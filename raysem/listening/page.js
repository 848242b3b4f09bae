"use strict";
// One clip at a time. Answers go to localStorage at once; nothing leaves the page but the file that the rater saves.

const study = JSON.parse(document.getElementById("study").textContent);
const clips = study.clips;
const STORE = "raysem-listening:" + study.study;
const CHOICES = { left: "left fits better", right: "right fits better", same: "about the same" };
const LISTEN_FIRST = "Play the sound first" + (matchMedia("(min-width: 36rem)").matches ? ": the button, or the space bar." : ".");
const element = (id) => document.getElementById(id);
const audio = element("audio");

const heard = new Set(); // tokens of clips that were played since the page was opened
const broken = new Set(); // tokens of clips that this browser cannot play
const seconds = new Map(); // token -> seconds on the screen
let state = { rater: "", answers: {}, shortcuts: true, saved: true }; // saved: a file holds all answers
let at = 0;
let since = null; // when the clip on the screen began to be seen, in ms; null while it is not
let keeps = true;
let isDrawing = false;

// ---- what is kept

function isAnswer(answer, clip) {
  return (
    typeof answer === "object" && answer !== null && Number.isFinite(answer.seconds) && answer.seconds >= 0 &&
    [clip.left.token, clip.right.token, study.same].includes(answer.choice)
  );
}

function load() {
  let kept = null;
  try {
    localStorage.setItem(STORE + ":try", "1");
    localStorage.removeItem(STORE + ":try");
    kept = JSON.parse(localStorage.getItem(STORE));
  } catch (error) {
    keeps = error instanceof SyntaxError; // else the browser gives a page like this no storage
  }
  since = null;
  state = { rater: "", answers: {}, shortcuts: kept?.shortcuts !== false, saved: kept?.saved !== false };
  if (typeof kept?.rater === "string") state.rater = kept.rater;
  for (const clip of clips) {
    const answer = kept?.answers?.[clip.token];
    if (isAnswer(answer, clip)) state.answers[clip.token] = { choice: answer.choice, seconds: answer.seconds };
  }
  seconds.clear();
  for (const [token, answer] of Object.entries(state.answers)) seconds.set(token, answer.seconds);
}

function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    keeps = false;
  }
  element("not-kept").hidden = keeps;
}

const answered = () => Object.keys(state.answers).length;
const counted = (count, what) => count + " " + what + (count === 1 ? "" : "s");
const isOpen = (clip) => !(clip.token in state.answers);

// ---- time on the screen

function stopClock() {
  if (since === null) return;
  const token = clips[at].token;
  seconds.set(token, (seconds.get(token) ?? 0) + (performance.now() - since) / 1000);
  since = null;
}

function startClock() {
  since = !element("rating").hidden && document.visibilityState === "visible" ? performance.now() : null;
}

document.addEventListener("visibilitychange", () => (document.visibilityState === "visible" ? startClock() : stopClock()));

// ---- the three screens

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

function turnTo(screen) {
  stopClock();
  audio.pause();
  for (const id of ["welcome", "rating", "done"]) element(id).hidden = id !== screen;
  element("progress-box").hidden = screen === "welcome";
  element("more").hidden = screen === "welcome" && !answered();
  element("progress").value = answered();
  element("progress-text").textContent = answered() + " of " + clips.length + " answered";
  scrollTo(0, 0);
}

function showWelcome() {
  turnTo("welcome");
  element("rater").value = state.rater;
  element("start").textContent = answered() ? "Go on" : "Start";
  element("welcome-back").hidden = !answered();
  element("welcome-back").textContent = "Welcome back. " + answered() + " of " + counted(clips.length, "sound") + " answered so far.";
}

function showClip(place) {
  turnTo("rating");
  at = place;
  const clip = clips[at];
  element("clip-title").textContent = "Sound " + (at + 1) + " of " + clips.length;
  for (const side of ["left", "right"]) {
    const items = clip[side].tags.map((tag) => Object.assign(document.createElement("li"), { textContent: tag }));
    if (!items.length) items.push(Object.assign(document.createElement("li"), { className: "none", textContent: "no tags" }));
    element(side + "-tags").replaceChildren(...items);
  }
  drawWave(clip);
  element("cut").hidden = clip.whole;
  element("seek").max = clip.seconds;
  audio.src = clip.audio; // drops the event of the pause before
  drawPlayer();
  drawChoices();
  element("clip-title").focus({ preventScroll: true });
  startClock();
}

function showDone() {
  turnTo("done");
  const open = clips.length - answered();
  element("done-title").textContent = "Thank you, " + state.rater;
  element("done-text").textContent = open
    ? answered() + " of " + counted(clips.length, "sound") + " answered, " + open + " still open."
    : "Every sound is answered.";
  element("to-open").hidden = !open;
  element("done-title").focus({ preventScroll: true });
}

/** The next clip without an answer, from `place` on and round; the last screen when there is none left to play. */
function showOpenFrom(place) {
  for (let step = 0; step < clips.length; step++) {
    const index = (place + step) % clips.length;
    if (isOpen(clips[index]) && !broken.has(clips[index].token)) return showClip(index);
  }
  showDone();
}

// ---- answering

function drawChoices() {
  const clip = clips[at];
  const choice = state.answers[clip.token]?.choice;
  const ready = heard.has(clip.token) || !isOpen(clip);
  for (const side of ["left", "right", "same"]) {
    const button = element("choose-" + side);
    button.setAttribute("aria-pressed", String(choice === (side === "same" ? study.same : clip[side].token)));
    button.setAttribute("aria-disabled", String(!ready));
  }
  element("listen-first").textContent = ready ? "" : LISTEN_FIRST;
  element("broken").hidden = !broken.has(clip.token);
  element("back").disabled = at === 0;
  element("next").disabled = isOpen(clip) && !broken.has(clip.token);
}

function choose(side) {
  const clip = clips[at];
  if (isOpen(clip) && !heard.has(clip.token)) return say(LISTEN_FIRST);
  stopClock();
  const spent = Math.round((seconds.get(clip.token) ?? 0) * 10) / 10;
  state.answers[clip.token] = { choice: side === "same" ? study.same : clip[side].token, seconds: spent };
  state.saved = false;
  keep();
  say("Sound " + (at + 1) + ": " + CHOICES[side] + ". " + answered() + " of " + clips.length + " answered.");
  showOpenFrom(at + 1);
}

function goBack() {
  if (element("rating").hidden) return showClip(clips.length - 1);
  if (at > 0) showClip(at - 1);
}

function goOn() {
  if (element("next").disabled) return;
  if (at + 1 < clips.length) showClip(at + 1);
  else showOpenFrom(0);
}

// ---- the player

function drawWave(clip) {
  const lines = clip.peaks.map((peak, index) => {
    const half = Math.max(1, 14 * peak).toFixed(1);
    return "M" + (3 * index + 1.5) + " " + (16 - half) + "V" + (16 + Number(half));
  });
  for (const id of ["wave", "played"]) {
    element(id).setAttribute("viewBox", "0 0 " + 3 * clip.peaks.length + " 32");
    element(id).firstElementChild.setAttribute("d", lines.join(""));
  }
}

const clock = (time) => Math.floor(time / 60) + ":" + String(Math.floor(time % 60)).padStart(2, "0");

function drawTime() {
  const length = clips[at].seconds;
  const now = Math.min(audio.currentTime, length);
  element("played").style.setProperty("--played", (100 * now) / length + "%");
  element("seek").value = now;
  element("seek").setAttribute("aria-valuetext", now.toFixed(1) + " of " + length.toFixed(1) + " seconds");
  element("time").textContent = clock(now) + " / " + clock(Math.max(1, Math.round(length)));
  if (audio.paused || isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    drawTime();
  });
}

function drawPlayer() {
  const isPlaying = !audio.paused && !audio.ended;
  element("player").classList.toggle("playing", isPlaying);
  element("play").setAttribute("aria-label", isPlaying ? "Pause the sound" : "Play the sound");
  drawTime();
}

function markBroken() {
  broken.add(clips[at].token);
  drawChoices();
}

function toggle() {
  if (!audio.paused) return audio.pause();
  audio.play().catch((error) => error.name === "NotSupportedError" && markBroken());
}

audio.addEventListener("playing", () => {
  heard.add(clips[at].token);
  drawChoices();
  drawTime();
});
audio.addEventListener("error", () => audio.error && markBroken());
for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, drawPlayer);
element("play").addEventListener("click", toggle);
element("seek").addEventListener("input", () => {
  audio.currentTime = Number(element("seek").value);
  drawTime();
});
element("seek").addEventListener("pointerup", () => element("seek").blur()); // so that arrow keys answer again

// ---- files

function save() {
  const answers = clips
    .filter((clip) => !isOpen(clip))
    .map((clip) => ({ clip: clip.token, ...state.answers[clip.token] }));
  const content = { format: study.format, version: 1, study: study.study, rater: state.rater, exported: new Date().toISOString(), answers };
  const link = document.createElement("a");
  const name = state.rater.normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "").toLowerCase();
  link.download = ["answers", name, study.study].filter(Boolean).join("-") + ".json";
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2) + "\n"], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  state.saved = true;
  keep();
  say(link.download + " holds " + answers.length + " of " + clips.length + " answers. Look for it among your downloads.");
}

function readAnswers(text) {
  const content = JSON.parse(text);
  if (content?.format !== study.format || !Array.isArray(content.answers)) throw new Error("It is not a file of answers.");
  if (content.study !== study.study) throw new Error("Its answers belong to another listening test.");
  const byToken = new Map(clips.map((clip) => [clip.token, clip]));
  const answers = {};
  for (const answer of content.answers) {
    const clip = byToken.get(answer?.clip);
    if (!clip || !isAnswer(answer, clip)) throw new Error("It holds an answer that this page does not know.");
    answers[clip.token] = { choice: answer.choice, seconds: answer.seconds };
  }
  return { rater: String(content.rater ?? ""), answers };
}

element("file").addEventListener("change", async () => {
  const file = element("file").files[0];
  if (!file) return;
  try {
    const found = readAnswers(await file.text());
    const replace = () => {
      state = { ...state, ...found, saved: true };
      keep();
      load();
      showWelcome();
      say("Opened " + counted(answered(), "answer") + " of " + (state.rater || "a rater without a name") + ".");
    };
    const count = counted(Object.keys(found.answers).length, "answer");
    const question = "Put the file's " + count + " in place of the " + answered() + " in this browser?";
    if (answered()) ask(question, "Replace them", replace);
    else replace();
  } catch (error) {
    const reason = error instanceof SyntaxError ? "It is not a file of answers." : error.message;
    say(file.name + " cannot be opened. " + reason, true);
  }
  element("file").value = "";
});

function restart() {
  const forget = () => {
    try {
      localStorage.removeItem(STORE);
    } catch {
      keeps = false;
    }
    heard.clear();
    load();
    showWelcome();
    say("All answers are deleted.");
    element("rater").focus();
  };
  if (!answered()) return forget();
  const unsaved = state.saved ? "" : " Not all of them are saved to a file.";
  const whose = counted(answered(), "answer") + " of " + (state.rater || "this rater");
  ask("Delete " + whose + " from this browser?" + unsaved, "Delete", forget);
}

function ask(question, yes, action) {
  element("ask-text").textContent = question;
  element("ask-yes").textContent = yes;
  element("ask-yes").onclick = () => {
    element("ask").close();
    action();
  };
  element("ask").showModal();
}

// ---- events

const ACTIONS = {
  back: goBack,
  next: goOn,
  save,
  restart,
  open: () => element("file").click(),
  "first-open": () => showClip(clips.findIndex(isOpen)),
};
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", ACTIONS[button.dataset.do]);
for (const button of document.querySelectorAll("[data-choice]")) button.addEventListener("click", () => choose(button.dataset.choice));
element("ask-no").addEventListener("click", () => element("ask").close());

element("start-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = element("rater").value.trim().replace(/\s+/g, " ");
  element("rater").setAttribute("aria-invalid", String(!name));
  if (!name) {
    say("Please write your name or initials first.", true);
    return element("rater").focus();
  }
  state.rater = name;
  keep();
  say("");
  showOpenFrom(0);
});

element("shortcuts").addEventListener("change", () => {
  state.shortcuts = element("shortcuts").checked;
  keep();
});

// `code` as well as `key`: on some keyboards a digit needs the shift key.
const KEYS = {
  1: () => choose("left"), Digit1: () => choose("left"), ArrowLeft: () => choose("left"),
  2: () => choose("right"), Digit2: () => choose("right"), ArrowRight: () => choose("right"),
  0: () => choose("same"), Digit0: () => choose("same"), ArrowDown: () => choose("same"),
  Backspace: goBack, ArrowUp: goBack, " ": toggle,
};
addEventListener("keydown", (event) => {
  const action = KEYS[event.key] ?? KEYS[event.code];
  if (!action || !state.shortcuts || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (element("rating").hidden || element("ask").open) return;
  const within = event.target.closest("button, summary, input");
  if (within && (event.key === " " || within.tagName === "INPUT") && !(event.key === " " && within.id === "seek")) return;
  event.preventDefault();
  action();
});

// Another tab of the same test: the newest answers count in both.
addEventListener("storage", (event) => {
  if (event.key !== STORE && event.key !== null) return;
  load();
  if (!state.rater) showWelcome();
  else if (!element("rating").hidden) showClip(at);
  else if (!element("done").hidden) showOpenFrom(0);
});

addEventListener("beforeunload", (event) => {
  if (!keeps && !state.saved) event.preventDefault();
});

load();
element("shortcuts").checked = state.shortcuts;
element("not-kept").hidden = keeps;
showWelcome();
