// Markdown to nodes: markdown-it parses, DOMPurify turns its HTML into nodes and lets through what is listed here.
//
// HTML in the text stays text. Links lead away only by a click and only to the web or a mail address; images are links.
// Work is bounded: a longer run of text within one block is not searched for markup; a text that is longer, or has more
// or more deeply nested blocks, is no Markdown at all.

import "../../vendor/purify.min.js";
import MarkdownIt from "../../vendor/markdown-it.min.js";
import { showCode } from "./code.js";
import { addFormulas, showFormulas } from "./formulas.js";

const { DOMPurify } = globalThis;
export const MOST_TEXT = 200_000; // characters; an answer that fills the context has about half of that
export const MOST_TOKENS = 20_000; // blocks and cells, each with a beginning and an end
const MOST_INLINE = 10_000; // characters of one paragraph, heading or cell
const MOST_NESTING = 40;

const TAGS = "p br hr h4 h5 h6 ul ol li blockquote pre code em strong s a table thead tbody tr th td".split(" ");
const ATTRIBUTES = ["href", "class", "start"];

const md = new MarkdownIt({ html: false, linkify: true, breaks: true, maxNesting: MOST_NESTING });
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
md.validateLink = (url) => /^(?:https?:\/\/|mailto:)/i.test(url);
addFormulas(md);

md.core.ruler.at("inline", (state) => {
  for (const token of state.tokens) {
    if (token.type !== "inline") continue;
    if (token.content.length > MOST_INLINE) token.type = "long";
    else md.inline.parse(token.content, md, state.env, token.children);
  }
});
md.renderer.rules.long = (tokens, i) => md.utils.escapeHtml(tokens[i].content);
md.core.ruler.push("ours", (state) => {
  for (const token of state.tokens) {
    // Below the page's own headings.
    if (token.type.startsWith("heading")) token.tag = "h" + Math.min(6, Number(token.tag[1]) + 3);
    const align = /^text-align:(\w+)$/.exec(token.attrGet("style") ?? "");
    if (align) token.attrs = [["class", align[1]]]; // the policy forbids attributes of style
  }
});
md.renderer.rules.image = (tokens, i) => {
  const { escapeHtml } = md.utils;
  const url = escapeHtml(tokens[i].attrGet("src"));
  return `<a href="${url}">${escapeHtml(tokens[i].content) || url}</a>`;
};

// The tokens of a text; null if it is nested too deeply.
export function parse(text) {
  const tokens = md.parse(text, {});
  return tokens.some((token) => token.level >= MOST_NESTING - 1) ? null : tokens;
}
// `complete`: whether nothing more comes.
export function toNodes(tokens, complete) {
  const html = md.renderer.render(tokens, md.options, {});
  const options = { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOW_DATA_ATTR: false, RETURN_DOM_FRAGMENT: true };
  const fragment = DOMPurify.sanitize(html, options);
  for (const link of fragment.querySelectorAll("a[href]")) {
    Object.assign(link, { target: "_blank", rel: "noopener noreferrer", title: link.getAttribute("href") });
  }
  for (const node of fragment.querySelectorAll("p, h4, h5, h6, li, blockquote, td, th")) node.dir = "auto";
  for (const table of fragment.querySelectorAll("table")) wrapTable(table);
  for (const pre of fragment.querySelectorAll("pre")) showCode(pre, complete);
  showFormulas(fragment);
  return [...fragment.childNodes].filter((node) => node.nodeType !== Node.TEXT_NODE || node.data.trim());
}
function wrapTable(table) {
  const box = document.createElement("div"); // a wide table scrolls by itself, by keyboard too
  Object.assign(box, { className: "table", tabIndex: 0 });
  table.replaceWith(box);
  box.append(table);
}
