// What fields for text have in common.

// As high as its text.
export function fit(area) {
  area.style.height = "auto";
  area.style.height = area.scrollHeight + area.offsetHeight - area.clientHeight + "px"; // with its border
}
// Whether this key sends: while an input method is composing, Enter takes its suggestion; 229 is how Safari says so.
export const sends = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
