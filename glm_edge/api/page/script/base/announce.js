// What screen readers are told, and copying, which tells them too.

import { $, el } from "./dom.js";
import { say } from "./language.js";

let clearing = 0;

export function announce(text) {
  if (!text.trim()) return;
  clearTimeout(clearing);
  $("live").append(el("p", { textContent: text }));
  clearing = setTimeout(() => $("live").replaceChildren(), 20000);
}

export async function copy(text, place) {
  // `place` is the button that was pressed; it says for a moment whether it worked.
  let done = false;
  try {
    await navigator.clipboard.writeText(text); // absent where the page came over plain HTTP from another machine
    done = true;
  } catch {
    const area = el("textarea", { value: text, readOnly: true, className: "unseen" });
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    place.focus();
  }
  const before = place.textContent;
  place.textContent = say(done ? "copied" : "notCopied");
  announce(place.textContent);
  setTimeout(() => (place.textContent = before), 1500);
}
