// One message: its text, and under it what can be done with it and the figures of its answer.

import { copy } from "../base/announce.js";
import { button, el } from "../base/dom.js";
import { say } from "../base/language.js";
import { app } from "../base/state.js";
import { runs } from "../chats/chats.js";
import { shownPath } from "../chats/tree.js";
import { again } from "../server/ask.js";
import { showAnswer, showRaw } from "../text/answer.js";
import { showText } from "../text/plain.js";

const views = new WeakMap(); // message -> its nodes on the page
const raw = new WeakSet(); // answers that are shown as they came

export function messageView(message) {
  const body = el("div", { className: "body" });
  const under = el("div", { className: "under" });
  const who = el("h3", { textContent: say(message.role === "user" ? "you" : "model") });
  const node = el("article", { className: message.role }, who, body, under);
  views.set(message, { body, under });
  showMessage(message);
  return node;
}
export function showMessage(message) {
  const running = runs.get(app.current.id)?.answer === message;
  const { body } = views.get(message);
  if (message.role === "user") showText(body, message.content);
  else if (raw.has(message)) showRaw(body, message.content);
  else showAnswer(body, message.content, !running);
  if (running) showProgress(message);
  else showActions(message);
}
export function showProgress(message) {
  const under = views.get(message)?.under;
  if (!under) return;
  const [words, share] = runs.get(app.current.id).progress();
  const status = under.querySelector("span") ?? under.appendChild(el("span", {}));
  if (status.textContent !== words) status.textContent = words;
  let bar = under.querySelector("progress");
  if (share === null) bar?.remove();
  else {
    bar ??= under.appendChild(el("progress", { max: 1, ariaLabel: say("reading") }));
    bar.value = share;
  }
}
function showActions(message) {
  const actions = [button(say("copy"), (it) => copy(message.content, it))];
  if (message.role === "assistant") {
    actions.push(button(say(raw.has(message) ? "rendered" : "raw"), () => toggleRaw(message)));
    const failed = app.current.trouble?.question.id === message.parent && shownPath(app.current).at(-1) === message;
    if (!failed) actions.push(button(say("again"), () => again(app.current, message))); // there is one at the failure
    actions.push(figures(message));
  }
  views.get(message).under.replaceChildren(...actions);
}
function toggleRaw(message) {
  if (!raw.delete(message)) raw.add(message);
  showMessage(message);
  views.get(message).under.children[1].focus();
}

function figures({ meta }) {
  const words = [];
  if (meta.end) words.push(say(meta.end));
  if (meta.tokens !== undefined) words.push(say("tokens", meta.tokens));
  if (meta.rate !== undefined) words.push(say("rate", meta.rate.toFixed(1)));
  if (meta.first !== undefined) words.push(say("first", meta.first.toFixed(1)));
  if (meta.total !== undefined) words.push(say("total", meta.total.toFixed(1)));
  const cached = meta.cached ? ", " + say("cached", meta.cached) : "";
  if (meta.prompt !== undefined) words.push(say("prompt", meta.prompt) + cached);
  return el("span", { textContent: words.join(" · ") });
}
