// Formulas: $…$, $$…$$, \(…\) and \[…\], set by KaTeX, which is loaded with its style and fonts when one comes.
//
// Until then, and where KaTeX cannot read one, its source is shown. KaTeX makes nodes, not markup. What it would write
// into attributes of style goes through the CSSOM: the policy forbids those. It may load, link and name nothing.

import { el } from "../base/dom.js";

const MOST_FORMULA = 2_000; // characters
const OPTIONS = {
  throwOnError: true, trust: false, strict: "ignore", maxExpand: 200, maxSize: 10, errorColor: "currentColor",
};
const ENDS = { "$$": "$$", "\\[": "\\]", "\\(": "\\)", $: "$" };

// markdown-it's rules for them. The source stands in <code class="formula">, or "formula display".
export function addFormulas(md) {
  md.inline.ruler.before("escape", "formula", (state, silent) => {
    const found = formulaAt(state.src, state.pos, state.posMax);
    if (!found) return false;
    if (!silent) push(state, found);
    state.pos = found.end;
    return true;
  });
  md.block.ruler.before("fence", "formula", (state, startLine, endLine, silent) => {
    const start = state.bMarks[startLine] + state.tShift[startLine];
    const begins = ["$$", "\\["].includes(state.src.slice(start, start + 2));
    const found = begins && formulaAt(state.src, start, state.eMarks[endLine - 1]);
    if (!found) return false;
    let line = startLine;
    while (state.eMarks[line] < found.end) line += 1;
    if (line >= endLine || state.src.slice(found.end, state.eMarks[line]).trim()) return false; // a sentence goes on
    if (silent) return true;
    push(state, found).map = [startLine, line + 1];
    state.line = line + 1;
    return true;
  }, { alt: ["paragraph", "blockquote", "list"] });
  md.renderer.rules.formula = (tokens, i) => {
    const { content, markup, block } = tokens[i];
    const code = `<code class="formula${markup && " display"}">${md.utils.escapeHtml(content)}</code>`;
    return block ? `<p>${code}</p>` : code;
  };
}
function push(state, { source, display }) {
  const block = state.line !== undefined;
  return Object.assign(state.push("formula", "code", 0), { content: source, block, markup: display ? "display" : "" });
}
function formulaAt(text, start, most) {
  const open = Object.keys(ENDS).find((mark) => text.startsWith(mark, start));
  if (!open) return null;
  const from = start + open.length;
  const till = text.indexOf(ENDS[open], from);
  if (till < 0 || till + open.length > most || till - from > MOST_FORMULA) return null;
  const source = text.slice(from, till);
  // As pandoc has it: money is no formula, so "$" stands close to what it encloses, and no digit follows.
  const money = open === "$" && (/^\s|\s$|\n/.test(source) || /\d/.test(text[till + 1] ?? ""));
  if (money || !source.trim() || /\n\s*\n/.test(source)) return null;
  return { source: source.trim(), display: open === "$$" || open === "\\[", end: till + open.length };
}

let katex = null; // the library, once it is here
let coming = null;

function load() {
  const style = el("link", { rel: "stylesheet", href: new URL("../../vendor/katex.min.css", import.meta.url).href });
  const styled = new Promise((resolve, reject) => Object.assign(style, { onload: resolve, onerror: reject }));
  document.head.append(style);
  return Promise.all([import("../../vendor/katex.min.js"), styled]).then(() => {
    katex = globalThis.katex;
    showFormulas(document);
  });
}
export function showFormulas(root) {
  const waiting = [...root.querySelectorAll("code.formula")];
  if (waiting.length === 0) return;
  if (katex) waiting.forEach(set);
  else coming ??= load().catch(() => (coming = null)); // the server has gone: the next formula tries again
}
function set(code) {
  const display = code.classList.contains("display");
  try {
    const tree = katex.__renderToDomTree(code.textContent, { ...OPTIONS, displayMode: display });
    moveStyles(tree);
    const node = el("span", { className: display ? "display" : "inline" }, tree.toNode());
    for (const styled of node.querySelectorAll("[data-style]")) {
      styled.style.cssText = styled.dataset.style;
      styled.removeAttribute("data-style");
    }
    if (display) node.tabIndex = 0; // a wide formula scrolls by keyboard too
    code.replaceWith(node);
    if (!display) node.querySelectorAll(".katex-base").forEach((part) => sizes.observe(part));
  } catch {
    code.className = "unset"; // no formula that KaTeX knows, or nested too deeply: its source stays
  }
}
// A formula in a line breaks between its parts. A part that is wider than its line scrolls by itself.
const sizes = new ResizeObserver((parts) => parts.forEach(({ target }) => fit(target)));
addEventListener("resize", () => document.querySelectorAll(".inline .katex-base").forEach(fit));
function fit(part) {
  let line = part.parentElement;
  while (line && getComputedStyle(line).display === "inline") line = line.parentElement;
  const wide = line !== null && part.scrollWidth > line.clientWidth;
  part.classList.toggle("wide", wide);
  if (wide) part.tabIndex = 0; // it scrolls by keyboard too
  else part.removeAttribute("tabindex");
}
function moveStyles(node) {
  if (node.attributes?.style) {
    node.attributes["data-style"] = node.attributes.style;
    delete node.attributes.style;
  }
  node.children?.forEach(moveStyles);
}
