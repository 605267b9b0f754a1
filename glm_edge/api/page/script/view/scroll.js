// The view follows the end of the answer, until the reader scrolls up.

import { $, onClick } from "../base/dom.js";

let stuck = true;
const atEnd = () => $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 48;

export function toEnd() {
  stuck = true;
  $("log").scrollTop = $("log").scrollHeight;
  $("down").hidden = true;
}
// Change what is shown, and stay at the end if the reader was there.
export function following(show) {
  const follow = stuck;
  show();
  if (follow) toEnd();
}

$("log").addEventListener("scroll", () => {
  stuck = atEnd();
  $("down").hidden = stuck;
}, { passive: true });
onClick("down", () => {
  toEnd();
  $("input").focus();
});
