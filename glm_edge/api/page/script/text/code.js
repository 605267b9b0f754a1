// A code block: its language, a button that copies it, and colours by highlight.js for the languages that it knows.

import "../../vendor/purify.min.js";
import hljs from "../../vendor/highlight.min.js";
import { copy } from "../base/announce.js";
import { button, el } from "../base/dom.js";
import { say } from "../base/language.js";

const MOST_CODE = 20_000; // characters that are given colours

export function showCode(pre, complete) {
  const code = pre.firstElementChild ?? pre;
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  const text = code.textContent.replace(/\n$/, "");
  const known = hljs.getLanguage(language) && text.length <= (complete ? MOST_CODE : MOST_CODE / 4);
  code.className = "";
  if (known) code.replaceChildren(coloured(text, language));
  else code.textContent = text;
  pre.tabIndex = 0; // a wide line scrolls by keyboard too
  const head = el("div", { className: "code-head" }, el("span", { textContent: language.slice(0, 30) }));
  head.append(button(say("copyCode"), (it) => copy(text, it)));
  const box = el("div", { className: "code" }, head);
  pre.replaceWith(box);
  box.append(pre);
}
function coloured(text, language) {
  const html = hljs.highlight(text, { language, ignoreIllegals: true }).value;
  const allowed = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], ALLOW_DATA_ATTR: false };
  return globalThis.DOMPurify.sanitize(html, { ...allowed, RETURN_DOM_FRAGMENT: true });
}
