// The language of the page: the browser's until it is switched.

import { chinese } from "./chinese.js";
import { english } from "./english.js";
import { app } from "./state.js";

export const lang = () => app.settings.lang ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

// A text by its name: {0} is the first value, and {0:token|tokens} a word for one of it or for any other number.
export function say(name, ...values) {
  const words = (lang() === "zh" ? chinese : english)[name];
  return words.replace(/\{(\d)(?::(.*?)\|(.*?))?\}/g, (_, i, one, more) =>
    one === undefined ? values[i] : Number(values[i]) === 1 ? one : more);
}
export const duration = (seconds) =>
  seconds < 100 ? say("seconds", Math.ceil(seconds)) : say("minutes", Math.ceil(seconds / 60));
