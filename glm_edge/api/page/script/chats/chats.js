// The conversations of this browser: what is kept, what could not be, and which answers are under way.

import { app, changed } from "../base/state.js";
import { say } from "../base/language.js";
import { PREFIX, keptChatKeys, read, write } from "../base/storage.js";
import { asChat } from "../base/values.js";
import { shownPath } from "./tree.js";

export const chats = new Map(); // id -> conversation
export const runs = new Map(); // id -> the answer that this conversation waits for (server/run.js)
export const storage = { fails: false };

export function freshChat() {
  const random = Math.random().toString(36).slice(2);
  const id = Date.now().toString(36) + random;
  return { id, updated: 0, system: app.settings.system, title: "", nodes: [], chosen: {} };
}
export function titleOf(chat) {
  const first = shownPath(chat)[0];
  return chat.title || first?.content.trim().split("\n")[0].slice(0, 80) || first?.files?.[0].name || say("newChat");
}

export function keep(chat) {
  // An answer without text is left out where nothing follows it: it may be one that has just begun.
  const parents = new Set(chat.nodes.map((node) => node.parent));
  const nodes = chat.nodes.filter((node) => node.role === "user" || node.content || parents.has(node.id));
  const { id, updated, system, title, chosen } = chat;
  if (write("localStorage", "chat." + id, { id, updated, system, title, nodes, chosen })) return;
  storage.fails = true;
  changed("notice");
}
export function addChat(chat) {
  chats.set(chat.id, chat);
  keep(chat);
  openChat(chat);
}
export function loadChats() {
  for (const name of keptChatKeys()) {
    const chat = asChat(read("localStorage", name.slice(PREFIX.length)));
    if (chat && PREFIX + "chat." + chat.id === name) chats.set(chat.id, chat);
  }
  app.current = chats.get(read("sessionStorage", "current")) ?? freshChat();
}
export function forgetChat(id) {
  runs.get(id)?.control.abort();
  runs.delete(id);
  chats.delete(id);
  write("localStorage", "chat." + id, null);
}
export function forgetAll() {
  for (const id of [...chats.keys()]) forgetChat(id);
  for (const name of keptChatKeys()) write("localStorage", name.slice(PREFIX.length), null); // unreadable ones too
  storage.fails = false;
}
export function openChat(chat) {
  app.current = chat;
  write("sessionStorage", "current", chat.id);
  changed("opened");
}

// Answers that are under way when the page goes: what there is of them is kept.
for (const [target, name] of [[window, "pagehide"], [document, "visibilitychange"]]) {
  target.addEventListener(name, () => runs.forEach((run) => keep(run.chat)));
}
// Another tab has changed something.
window.addEventListener("storage", (event) => {
  if (!event.key?.startsWith(PREFIX + "chat.")) return;
  const id = event.key.slice((PREFIX + "chat.").length);
  if (runs.has(id)) return;
  const chat = asChat(read("localStorage", "chat." + id));
  if (chat) chats.set(id, chat);
  else chats.delete(id);
  if (id === app.current.id && chat) {
    app.current = chat;
    changed("chat");
  }
  changed("chats");
});
