// A conversation as a file.

import { el } from "../base/dom.js";
import { say } from "../base/language.js";
import { app } from "../base/state.js";
import { titleOf } from "./chats.js";
import { shownPath } from "./tree.js";

export function exportChat(chat, kind) {
  const messages = shownPath(chat).map(({ role, content }) => ({ role, content }));
  if (chat.system.trim()) messages.unshift({ role: "system", content: chat.system });
  const names = { system: say("exportSystem"), user: say("exportYou"), assistant: say("model") };
  const text = kind === "json"
    ? JSON.stringify({ title: titleOf(chat), model: app.modelId, exported: new Date().toISOString(), messages }, null, 2) + "\n"
    : `# ${titleOf(chat)}\n\n` + messages.map((m) => `## ${names[m.role]}\n\n${m.content}\n`).join("\n");
  const type = kind === "json" ? "application/json" : "text/markdown;charset=utf-8";
  const url = URL.createObjectURL(new Blob([text], { type }));
  const stamp = new Date().toISOString().slice(0, 16).replace(/\D/g, "-");
  el("a", { href: url, download: `glm-edge-${stamp}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
