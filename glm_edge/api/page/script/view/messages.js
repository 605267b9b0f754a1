// The messages of the conversation that is shown, and what went wrong with the last one.

import { $, button, el, onClick } from "../base/dom.js";
import { say } from "../base/language.js";
import { app, on } from "../base/state.js";
import { runs } from "../chats/chats.js";
import { shownPath } from "../chats/tree.js";
import { again } from "../server/ask.js";
import { edit, messageView, showMessage, showProgress } from "./message.js";
import { following, toEnd } from "./scroll.js";
import { openSettings } from "./settings.js";

function showChat() {
  const chat = app.current;
  $("empty").hidden = chat.nodes.length > 0;
  $("system-line").hidden = !chat.system.trim();
  $("system-line").textContent = say("systemLine", chat.system.trim().slice(0, 400));
  const nodes = shownPath(chat).map(messageView);
  showRunning(); // first: screen readers may keep silent about an alert in what is busy
  $("messages").replaceChildren(...nodes, ...troubleView(chat));
}
function showRunning() {
  const running = runs.has(app.current.id);
  $("stop").hidden = !running;
  $("send").hidden = running;
  $("messages").setAttribute("aria-busy", String(running));
}
function troubleView(chat) {
  const last = shownPath(chat).at(-1);
  if (runs.has(chat.id) || !last) return [];
  const { failure, question } = chat.trouble ?? {};
  const failed = failure && (last === question || last.parent === question.id);
  if (!failed && last.role !== "user") return [];
  const box = el("div", { className: "trouble" }, el("p", { textContent: failed ? failure.text() : say("noAnswer") }));
  if (failed) box.setAttribute("role", "alert");
  box.append(button(say("again"), () => again(chat, last), "line"));
  if (last.role === "user") box.append(button(say("editQuestion"), () => edit(last), "line"));
  return [box];
}

const isShown = (run) => runs.get(run.chat.id) === run && run.chat === app.current;

function showPiece(run) {
  if (run.drawing) return;
  run.drawing = true;
  const show = () => requestAnimationFrame(() => { // a page that is not seen is not drawn
    run.drawing = false;
    if (!isShown(run)) return;
    const before = performance.now();
    following(() => showMessage(run.answer));
    run.cost = performance.now() - before;
    run.speak(false);
  });
  // What takes long is done less often, so that four fifths of the time are left for the reader.
  run.cost > 8 ? setTimeout(show, 4 * run.cost) : show();
}
function showAnswered({ run, nothing }) {
  if (run.chat !== app.current) return;
  following(() => {
    if (nothing) return showChat();
    showMessage(run.answer); // only this answer: a selection elsewhere is the reader's
    showRunning();
    $("messages").append(...troubleView(run.chat));
  });
}

onClick("system-line", () => openSettings("system"));
on("chat", showChat);
on("opened", () => {
  showChat();
  toEnd();
});
on("asked", () => {
  $("live").replaceChildren();
  showChat();
  toEnd();
});
on("progress", (run) => isShown(run) && showProgress(run.answer));
on("piece", showPiece);
on("answered", showAnswered);
