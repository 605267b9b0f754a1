// An answer as it is shown: as Markdown while it comes, as plain text where it is too much for that.
//
// Blocks that are over stay as they are; only the last one is read again with each new piece. A block is over when
// another one has begun behind it, in a line that is complete.

import { el } from "../base/dom.js";
import { say } from "../base/language.js";
import { MOST_TEXT, MOST_TOKENS, parse, toNodes } from "./markdown.js";

// body -> { offset: where its last block begins, over: tokens before it, open: the node that holds that block }
const states = new WeakMap();
const REFERENCE = /^ {0,3}\[[^\]]+\]:/m; // may come after the links that it is for

export function showAnswer(body, text, complete) {
  const source = text.replace(/\r\n?/g, "\n");
  let state = states.get(body);
  if (!state || state.offset > source.length || (complete && REFERENCE.test(source))) state = begin(body);
  if (source.length > MOST_TEXT || state.plain) return showPlain(body, state, source);
  const rest = source.slice(state.offset);
  const tokens = parse(rest);
  if (tokens === null || state.over + tokens.length > MOST_TOKENS) return showPlain(body, state, source);
  const cut = tokens.findLastIndex((token) => token.level === 0 && token.nesting >= 0 && token.map);
  const start = cut > 0 ? offsetOfLine(rest, tokens[cut].map[0]) : 0;
  const over = start > 0 && rest.indexOf("\n", start) >= 0 ? cut : 0; // tokens of blocks that are over
  if (over > 0) {
    state.open.before(...toNodes(tokens.slice(0, over), true));
    state.offset += start;
    state.over += over;
  }
  const nodes = toNodes(tokens.slice(over), complete);
  if (complete) states.delete(body);
  complete ? state.open.replaceWith(...nodes) : state.open.replaceChildren(...nodes);
}
export function showRaw(body, text) {
  states.delete(body);
  body.replaceChildren(el("p", { className: "raw", textContent: text }));
}

function begin(body) {
  const state = { offset: 0, over: 0, open: el("div", { className: "open" }) };
  body.replaceChildren(state.open);
  states.set(body, state);
  return state;
}
function offsetOfLine(text, line) {
  let at = 0;
  for (let i = 0; i < line; i += 1) at = text.indexOf("\n", at) + 1;
  return at;
}
function showPlain(body, state, source) {
  if (!state.plain) {
    state.plain = el("p", {});
    body.replaceChildren(el("p", { className: "quiet", textContent: say("plainText") }), state.plain);
  }
  state.plain.textContent = source;
}
