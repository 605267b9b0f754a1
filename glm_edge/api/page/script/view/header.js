// The head of a conversation: its title, and saving it as a file.

import { $, onClick } from "../base/dom.js";
import { app, on } from "../base/state.js";
import { titleOf } from "../chats/chats.js";
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
  $("export").hidden = !begun;
}
function save(kind) {
  exportChat(app.current, kind);
  closeExport();
}

onClick("export-md", () => save("md"));
onClick("export-json", () => save("json"));
document.addEventListener("click", (event) => {
  if (!$("export").contains(event.target)) $("export").open = false;
});
for (const what of ["chat", "opened", "asked"]) on(what, showHeader);
