// Asking: a question of a conversation goes to the server, and its answer comes back piece by piece.

import { announce } from "../base/announce.js";
import { say } from "../base/language.js";
import { app, changed } from "../base/state.js";
import { write } from "../base/storage.js";
import { SAMPLING } from "../base/values.js";
import { chats, keep, runs } from "../chats/chats.js";
import { withFiles } from "../chats/files.js";
import { addMessage, parentOf, pathTo, removeMessage, shownPath } from "../chats/tree.js";
import { EventReader } from "./events.js";
import { Failure, whyCut } from "./failures.js";
import { request } from "./requests.js";
import { Run } from "./run.js";

export function bodyFor(chat, question) {
  const messages = chat.system.trim() ? [{ role: "system", content: chat.system }] : [];
  const said = pathTo(chat, question);
  said.forEach((message, i) => {
    // A question that was never answered is not part of what is told, except the last one.
    const answered = said[i + 1]?.role === "assistant" || i === said.length - 1;
    if (message.role === "assistant" || answered) messages.push({ role: message.role, content: withFiles(message) });
  });
  // Where the conversation has outgrown the context, the oldest rounds are left out, and the answer says how many.
  const body = { messages, stream: true, stream_options: { include_usage: true }, trim_history: true };
  for (const name of Object.keys(SAMPLING)) if (app.settings[name] !== null) body[name] = app.settings[name];
  if (app.settings.length !== null) body.max_tokens = app.settings.length;
  if (app.models.includes(app.settings.model)) body.model = app.settings.model;
  return body;
}

// A new question behind what is shown, or in place of `before`, which is kept as a branch.
export function send(chat, content, files = [], before = null) {
  const parent = before ? before.parent : (shownPath(chat).at(-1)?.id ?? 0);
  const message = { role: "user", content, meta: {} };
  const question = addMessage(chat, parent, files.length > 0 ? { ...message, files } : message);
  write("sessionStorage", "current", chat.id);
  return ask(chat, question);
}
// Another answer to the question of this one; or to this question itself.
export function again(chat, message) {
  if (runs.has(chat.id)) return;
  ask(chat, message.role === "user" ? message : parentOf(chat, message));
}
export function stop() {
  runs.get(app.current.id)?.control.abort();
}

async function ask(chat, question) {
  const body = bodyFor(chat, question);
  const run = new Run(chat, question);
  chat.trouble = null;
  chat.updated = Date.now();
  chats.set(chat.id, chat);
  runs.set(chat.id, run);
  keep(chat);
  changed("chats");
  changed("asked", run);
  const ticking = setInterval(() => changed("progress", run), 500);
  let how;
  try {
    await receive(run, body);
    if (!run.done && run.finish === null) throw new TypeError("the stream has no end");
  } catch (error) {
    if (run.control.signal.aborted) how = "stopped";
    else {
      how = "cutShort";
      const failure = error instanceof Failure ? error : await whyCut();
      chat.trouble = { failure, question };
      if (failure.status === 401) changed("key-needed", () => again(chat, question));
      else if (!(error instanceof Failure) && error.name !== "TypeError") console.error(error);
    }
  } finally {
    clearInterval(ticking);
    if (runs.get(chat.id) === run) finish(run, how);
  }
}
async function receive(run, body) {
  const response = await request("v1/chat/completions", body, run.control.signal, run.chat.id);
  const events = new EventReader((data) => run.event(data), (comment) => run.comment(comment));
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      events.feed(done ? decoder.decode() : decoder.decode(value, { stream: true }));
      if (done) return events.end();
      changed("piece", run);
    }
  } finally {
    reader.cancel().catch(() => {}); // of a stream that broke: there is nothing left to cancel
  }
}
function finish(run, how) {
  const chat = run.chat;
  run.end(how);
  runs.delete(chat.id);
  const nothing = run.answer.content === "" && how !== undefined;
  if (nothing) removeMessage(chat, run.answer);
  run.speak(true);
  if (how === "stopped" && chat === app.current) announce(say("stopped"));
  keep(chat);
  changed("answered", { run, nothing });
  if (app.modelId === null && !how) changed("model-wanted");
}
