// Conversations as files: saving one, and reading what was saved.
//
// JSON has the messages that are shown, as other programs know them, and beside them the whole conversation with its
// branches. Markdown is for readers; its headings are what is read back. A line of a message that looks like
// such a heading gets a backslash there, "\## GLM", and loses it again.

import { el, isObject } from "../base/dom.js";
import { chinese } from "../base/chinese.js";
import { english } from "../base/english.js";
import { say } from "../base/language.js";
import { app } from "../base/state.js";
import { asChat } from "../base/values.js";
import { freshChat, titleOf } from "./chats.js";
import { withFiles } from "./files.js";
import { shownPath } from "./tree.js";

export const MOST_IMPORT = 16 * 2 ** 20; // bytes; a browser keeps less

// The roles of the headings in Markdown, in both languages.
const ROLES = new Map();
for (const words of [english, chinese]) {
  ROLES.set(words.exportSystem, "system").set(words.exportYou, "user").set(words.model, "assistant");
}
const HEADINGS = new RegExp(`^\\\\*## (?:${[...ROLES.keys()].join("|")})$`, "gm"); // escaped ones, too

export function exportChat(chat, kind) {
  const messages = shownPath(chat).map((message) => ({ role: message.role, content: withFiles(message) }));
  if (chat.system.trim()) messages.unshift({ role: "system", content: chat.system });
  const title = titleOf(chat);
  const text = kind === "json" ? jsonOf(chat, title, messages) : markdownOf(title, messages);
  const type = kind === "json" ? "application/json" : "text/markdown;charset=utf-8";
  const url = URL.createObjectURL(new Blob([text], { type }));
  const stamp = new Date().toISOString().slice(0, 16).replace(/\D/g, "-");
  el("a", { href: url, download: `glm-edge-${stamp}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
function jsonOf(chat, title, messages) {
  const { system, nodes, chosen } = chat;
  const conversation = { title: chat.title, system, nodes, chosen };
  const file = { title, model: app.modelId, exported: new Date().toISOString(), messages, conversation };
  return JSON.stringify(file, null, 2) + "\n";
}
function markdownOf(title, messages) {
  const names = { system: say("exportSystem"), user: say("exportYou"), assistant: say("model") };
  const escaped = (content) => content.replace(HEADINGS, (line) => "\\" + line);
  return `# ${title}\n\n` + messages.map((m) => `## ${names[m.role]}\n\n${escaped(m.content)}\n`).join("\n");
}

// The conversation in a file's text, as a new one; null where there is none.
export function importChat(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    found = fromMarkdown(text);
  }
  if (!isObject(found)) return null;
  const { id } = freshChat();
  const given = isObject(found.conversation) ? found.conversation : withoutSystem(found);
  return asChat({ ...given, id, updated: Date.now() });
}
function withoutSystem({ title, messages }) {
  const all = Array.isArray(messages) ? messages.filter(isObject) : [];
  const system = all.filter((message) => message.role === "system").map((message) => message.content).join("\n");
  return { title, system, messages: all.filter((message) => message.role !== "system") };
}
function fromMarkdown(text) {
  const lines = text.replace(/\r\n?/g, "\n").replace(/^\ufeff/, "").split("\n");
  const messages = [];
  for (const line of lines.slice(1)) {
    const role = line.startsWith("## ") ? ROLES.get(line.slice(3)) : undefined;
    if (role) messages.push({ role, lines: [] });
    else messages.at(-1)?.lines.push(line);
  }
  if (!lines[0].startsWith("# ") || messages.length === 0) return null;
  const textOf = (lines) => lines.join("\n").replace(/^\n|\n+$/g, "");
  const unescaped = (content) => content.replace(HEADINGS, (line) => line.replace(/^\\/, ""));
  const read = messages.map(({ role, lines }) => ({ role, content: unescaped(textOf(lines)) }));
  return { title: lines[0].slice(2), messages: read };
}
