// The field for a question, and what Enter and Escape do.

import { $, onClick, onSubmit } from "../base/dom.js";
import { app, on } from "../base/state.js";
import { runs } from "../chats/chats.js";
import { send, stop } from "../server/ask.js";
import { hasFiles, takeFiles } from "./attach.js";
import { fit, sends } from "./field.js";
import { closeExport, exportIsOpen } from "./header.js";
import { closeMenu, menuIsOpen } from "./menu.js";

function sendInput() {
  const text = $("input").value;
  if ((!text.trim() && !hasFiles()) || runs.has(app.current.id)) return;
  $("input").value = "";
  fit($("input"));
  $("input").focus();
  send(app.current, text, takeFiles());
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
