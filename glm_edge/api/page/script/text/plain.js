// Text as text nodes. The one piece of structure that is read out of it is a ``` fence, which becomes a <pre>.

import { el } from "../base/dom.js";

const FENCE = /^ {0,3}(`{3,})[^`]*$/;

function parts(text) {
  // Text and fenced code in turn; a fence that is not closed yet is code to the end.
  const found = [];
  let plain = [];
  let code = null;
  let mark = "";
  const endPlain = () => {
    const joined = plain.join("\n").replace(/^\n+|\n+$/g, "");
    if (joined) found.push({ code: false, text: joined });
    plain = [];
  };
  for (const line of text.split("\n")) {
    const fence = FENCE.exec(line);
    if (code === null && fence) {
      endPlain();
      mark = fence[1];
      found.push({ code: true, text: "" });
      code = [];
    } else if (code !== null && fence && line.trim() === fence[1] && fence[1].length >= mark.length) {
      code = null;
    } else if (code !== null) {
      code.push(line);
      found[found.length - 1].text = code.join("\n");
    } else plain.push(line);
  }
  endPlain();
  return found;
}
export function showText(body, text) {
  // Nodes that are right already stay, so that a selection in them survives the next word.
  const found = parts(text);
  found.forEach((part, i) => {
    let node = body.children[i];
    const tag = part.code ? "PRE" : "P";
    if (node?.tagName !== tag) {
      const fresh = part.code ? el("pre", { tabIndex: 0 }, el("code", {})) : el("p", { dir: "auto" });
      node ? node.replaceWith(fresh) : body.append(fresh);
      node = fresh;
    }
    const place = part.code ? node.firstChild : node;
    if (place.textContent !== part.text) place.textContent = part.text;
  });
  while (body.children.length > found.length) body.lastChild.remove();
}
