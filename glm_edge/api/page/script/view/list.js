// The list of conversations: searching, opening, deleting them, and reading one from a file.

import { $, button, el, onClick } from "../base/dom.js";
import { say } from "../base/language.js";
import { app, on } from "../base/state.js";
import { addChat, chats, forgetChat, freshChat, openChat, titleOf } from "../chats/chats.js";
import { MOST_IMPORT, importChat } from "../chats/transfer.js";

function showList() {
  const wanted = $("search").value.trim().toLowerCase();
  const sorted = [...chats.values()].sort((a, b) => b.updated - a.updated);
  const found = sorted.map((chat) => [chat, wanted && passage(chat, wanted)]).filter(([, text]) => text !== null);
  $("list").replaceChildren(...found.map(([chat, text]) => entry(chat, text)));
  $("not-found").hidden = !wanted || found.length > 0;
}
// What stands around the words in any branch of a conversation: "" where its title has them, null where nothing does.
function passage(chat, wanted) {
  if (titleOf(chat).toLowerCase().includes(wanted)) return "";
  for (const { content, files = [] } of chat.nodes) {
    for (const text of [content, ...files.flatMap((file) => [file.name, file.text])]) {
      const at = text.toLowerCase().indexOf(wanted);
      if (at >= 0) return (at > 12 ? "…" : "") + text.slice(Math.max(0, at - 12), at + 60).replace(/\s+/g, " ");
    }
  }
  return null;
}
function entry(chat, text) {
  const title = titleOf(chat);
  const here = chat === app.current;
  const open = button(title, () => openChat(chat), "chat");
  if (text) open.append(el("small", { textContent: text }));
  const drop = button("×", () => deleteChat(chat), "drop");
  drop.setAttribute("aria-label", say("deleteOne") + ": " + title);
  if (here) open.setAttribute("aria-current", "true");
  return el("li", { className: here ? "here" : "" }, open, drop);
}
function deleteChat(chat) {
  if (!confirm(say("deleteSure", titleOf(chat)))) return;
  forgetChat(chat.id);
  if (chat === app.current) openChat(freshChat());
  showList();
  $("new").focus();
}
async function readChat(file) {
  const chat = file.size <= MOST_IMPORT ? importChat(await file.text().catch(() => "")) : null;
  $("import-problem").hidden = chat !== null;
  $("import-problem").textContent = chat ? "" : say("importWrong", file.name);
  if (chat) addChat(chat);
}

on("chats", showList);
on("opened", showList);
onClick("new", () => openChat(freshChat()));
onClick("import", () => $("import-input").click());
$("search").addEventListener("input", showList);
$("import-input").addEventListener("change", () => {
  const [file] = $("import-input").files;
  if (file) readChat(file);
  $("import-input").value = "";
});
