// The head of a conversation: its title and renaming it, and saving it as a file.

import { $, onClick, onSubmit } from "../base/dom.js";
import { app, changed, on } from "../base/state.js";
import { keep, titleOf } from "../chats/chats.js";
import { exportChat } from "../chats/transfer.js";

export const exportIsOpen = () => $("export").open;
export function closeExport() {
  $("export").open = false;
  $("export").firstElementChild.focus();
}

function showHeader() {
  const title = titleOf(app.current);
  const begun = app.current.nodes.length > 0;
  $("title").textContent = title;
  document.title = begun ? title + " – GLM Edge" : "GLM Edge";
  $("export").hidden = $("rename").hidden = !begun;
}
function openRename() {
  $("new-title").value = titleOf(app.current);
  $("rename-dialog").showModal();
  $("new-title").select();
}
function rename() {
  app.current.title = $("new-title").value.trim(); // empty: the first question again
  keep(app.current);
  $("rename-dialog").close();
  showHeader();
  changed("chats");
}
function save(kind) {
  exportChat(app.current, kind);
  closeExport();
}

onClick("rename", openRename);
onSubmit($("rename-dialog").querySelector("form"), rename);
onClick("export-md", () => save("md"));
onClick("export-json", () => save("json"));
document.addEventListener("click", (event) => {
  if (!$("export").contains(event.target)) $("export").open = false;
});
for (const what of ["chat", "opened", "asked"]) on(what, showHeader);
