// One message: its text, and under it what can be done with it and the figures of its answer.

import { copy } from "../base/announce.js";
import { button, el } from "../base/dom.js";
import { say } from "../base/language.js";
import { app, changed } from "../base/state.js";
import { keep, runs } from "../chats/chats.js";
import { choose, parentOf, shownPath, siblingsOf } from "../chats/tree.js";
import { again } from "../server/ask.js";
import { showAnswer, showRaw } from "../text/answer.js";
import { showText } from "../text/plain.js";
import { editQuestion } from "./edit.js";

const views = new WeakMap(); // message -> its nodes on the page
const raw = new WeakSet(); // answers that are shown as they came

export function messageView(message) {
  const body = el("div", { className: "body" });
  const under = el("div", { className: "under" });
  const who = el("h3", { textContent: say(message.role === "user" ? "you" : "model") });
  const node = el("article", { className: message.role }, who, ...fileViews(message), body, under);
  views.set(message, { node, body, under });
  showMessage(message);
  return node;
}
export function showMessage(message) {
  const running = runs.get(app.current.id)?.answer === message;
  const { body } = views.get(message);
  body.hidden = message.role === "user" && message.content === "";
  if (message.role === "user") showText(body, message.content);
  else if (raw.has(message)) showRaw(body, message.content);
  else showAnswer(body, message.content, !running);
  if (running) showProgress(message);
  else showActions(message);
}
function fileViews({ files = [] }) {
  return files.map(({ name, text }) => {
    const box = el("details", { className: "file" }, el("summary", { textContent: name }));
    box.append(el("pre", { textContent: text, tabIndex: 0 }));
    return box;
  });
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
  const { node, under } = views.get(message);
  const actions = [button(say("copy"), (it) => copy(message.content, it))];
  if (message.role === "user") actions.push(button(say("edit"), () => edit(message), "edit"));
  else {
    actions.push(button(say(raw.has(message) ? "rendered" : "raw"), () => toggleRaw(message), "raw-toggle"));
    const failed = app.current.trouble?.question.id === message.parent && shownPath(app.current).at(-1) === message;
    const asked = parentOf(app.current, message)?.role === "user"; // what was imported may begin with an answer
    // There is one at the failure.
    if (asked && !failed) actions.push(button(say("again"), () => again(app.current, message)));
    if (message.meta.trimmed > 0 && !node.querySelector(".trimmed")) {
      const words = say("trimmed", message.meta.trimmed);
      node.querySelector("h3").after(el("p", { className: "trimmed", textContent: words }));
    }
  }
  under.replaceChildren(...actions, ...arrows(message), ...figures(message));
}
export function edit(message) {
  if (!runs.has(app.current.id)) editQuestion(message, views.get(message), () => showMessage(message));
}
function toggleRaw(message) {
  if (!raw.delete(message)) raw.add(message);
  showMessage(message);
  views.get(message).under.querySelector(".raw-toggle").focus();
}

// Between the branches that begin at this message.
function arrows(message) {
  const all = siblingsOf(app.current, message);
  if (all.length < 2) return [];
  const here = all.indexOf(message);
  const arrow = (sign, label, className, to) => {
    const node = button(sign, () => showBranch(to, className), className);
    return Object.assign(node, { ariaLabel: say(label), disabled: to === undefined });
  };
  const place = el("span", { className: "branch", textContent: `${here + 1}/${all.length}` });
  return [arrow("‹", "before", "before", all[here - 1]), place, arrow("›", "next", "next", all[here + 1])];
}
function showBranch(message, pressed) {
  choose(app.current, message);
  keep(app.current);
  changed("chat");
  const { under } = views.get(message);
  (under.querySelector(`.${pressed}:enabled`) ?? under.querySelector(":is(.before, .next):enabled")).focus();
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
  return words.length > 0 ? [el("span", { className: "figures", textContent: words.join(" · ") })] : [];
}
