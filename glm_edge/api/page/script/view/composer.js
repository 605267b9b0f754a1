// The field for a question, and what Enter and Escape do.

import { $, onClick, onSubmit } from "../base/dom.js";
import { app, on } from "../base/state.js";
import { runs } from "../chats/chats.js";
import { send, stop } from "../server/ask.js";
import { closeExport, exportIsOpen } from "./header.js";
import { closeMenu, menuIsOpen } from "./menu.js";

// As high as its text.
export function fit(area) {
  area.style.height = "auto";
  area.style.height = area.scrollHeight + "px";
}
// Whether this key press sends: while an input method is composing, Enter takes its suggestion; 229 is how Safari says so.
export const sends = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

function sendInput() {
  const text = $("input").value;
  if (!text.trim() || runs.has(app.current.id)) return;
  $("input").value = "";
  fit($("input"));
  $("input").focus();
  send(app.current, text);
}
function stopAnswer() {
  stop();
  $("input").focus();
}

onSubmit($("composer"), sendInput);
onClick("stop", stopAnswer);
on("opened", () => $("input").focus());
$("input").addEventListener("input", () => fit($("input")));
$("input").addEventListener("keydown", (event) => {
  if (!sends(event)) return;
  event.preventDefault();
  sendInput();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
  if (exportIsOpen()) closeExport();
  else if (menuIsOpen()) closeMenu();
  else stopAnswer();
});
