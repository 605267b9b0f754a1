// Files that are to go with the next question: chosen by the button, or dropped anywhere on the conversation.

import { $, button, el, onClick } from "../base/dom.js";
import { say } from "../base/language.js";
import { on } from "../base/state.js";
import { MOST_FILES, readFile } from "../chats/files.js";
import { following } from "./scroll.js";

let files = []; // { name, text }

export const hasFiles = () => files.length > 0;
export function takeFiles() {
  const taken = files;
  files = [];
  showFiles();
  return taken;
}

function showFiles(problems = []) {
  const chips = files.map((file) => {
    const drop = button("×", () => {
      files = files.filter((other) => other !== file);
      showFiles();
      $("input").focus();
    });
    drop.ariaLabel = say("fileDrop") + ": " + file.name;
    return el("li", {}, el("span", { textContent: file.name }), drop);
  });
  following(() => {
    $("files").replaceChildren(...chips);
    $("files").hidden = chips.length === 0;
    $("file-problem").textContent = problems.join(" ");
    $("file-problem").hidden = problems.length === 0;
  });
}
async function add(list) {
  const problems = [];
  for (const file of list) {
    try {
      const read = await readFile(file);
      if (files.length >= MOST_FILES) throw new Error(say("fileMany", MOST_FILES));
      files.push(read);
    } catch (error) {
      if (!problems.includes(error.message)) problems.push(error.message);
    }
  }
  showFiles(problems);
  $("input").focus();
}

const hasDragged = (event) => event.dataTransfer?.types.includes("Files");
const place = document.querySelector("main");
const mark = (on) => place.classList.toggle("dropping", on);

onClick("attach", () => $("file-input").click());
$("file-input").addEventListener("change", () => {
  add([...$("file-input").files]);
  $("file-input").value = ""; // so that the same file can be chosen again
});
document.addEventListener("dragover", (event) => {
  if (!hasDragged(event)) return;
  event.preventDefault(); // else the browser opens the file in place of the page
  mark(true);
});
document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
document.addEventListener("drop", (event) => {
  mark(false);
  if (!hasDragged(event)) return;
  event.preventDefault();
  add([...event.dataTransfer.files]);
});
on("opened", () => showFiles());
