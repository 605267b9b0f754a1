// The list of conversations.

import { $, button, el, onClick } from "../base/dom.js";
import { say } from "../base/language.js";
import { app, on } from "../base/state.js";
import { chats, forgetChat, freshChat, openChat, titleOf } from "../chats/chats.js";

function showList() {
  const sorted = [...chats.values()].sort((a, b) => b.updated - a.updated);
  $("list").replaceChildren(...sorted.map(entry));
}
function entry(chat) {
  const title = titleOf(chat);
  const here = chat === app.current;
  const open = button(title, () => openChat(chat), "chat");
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

on("chats", showList);
on("opened", showList);
onClick("new", () => openChat(freshChat()));
