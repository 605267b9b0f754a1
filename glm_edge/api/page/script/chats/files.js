// Text files that go with a question: read with a limit, and put before its text with their names.

import { say } from "../base/language.js";

export const MOST_FILES = 8;
const MOST_BYTES = 256 * 1024; // more than a full context

// { name, text } of a file; raises an Error with words for the reader where it is not taken.
export async function readFile(file) {
  if (file.size > MOST_BYTES) throw new Error(say("fileLarge", file.name, MOST_BYTES / 1024));
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error(say("fileUnread", file.name)); // a folder, or it is gone
  }
  const text = decoded(bytes);
  if (text === null) throw new Error(say("fileBinary", file.name));
  return { name: file.name.slice(0, 200), text: text.replace(/\r\n?/g, "\n") };
}
function decoded(bytes) {
  const mark = bytes[0] * 256 + bytes[1]; // of byte order
  // The last: Chinese text of older Windows programs.
  const codings = mark === 0xfffe ? ["utf-16le"] : mark === 0xfeff ? ["utf-16be"] : ["utf-8", "gb18030"];
  for (const coding of codings) {
    try {
      const text = new TextDecoder(coding, { fatal: true }).decode(bytes);
      return /[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(text) ? null : text;
    } catch {} // not in this coding
  }
  return null;
}

// A message as the model gets it. The server refuses U+0000 and half a surrogate pair, which an answer may hold.
export function withFiles({ content, files = [] }) {
  const blocks = files.map(({ name, text }) => {
    const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((run) => run[0].length));
    const fence = "`".repeat(longest + 1);
    return `${name}:\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
  });
  const whole = [...blocks, content].filter((part) => part.trim()).join("\n\n").replaceAll("\0", "\ufffd");
  return whole.toWellFormed?.() ?? whole;
}
