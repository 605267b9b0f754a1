// The language of the page: the browser's until it is switched.

import { chinese } from "./chinese.js";
import { english } from "./english.js";
import { app } from "./state.js";

export const lang = () => app.settings.lang ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

export function say(name, ...values) {
  const words = (lang() === "zh" ? chinese : english)[name];
  return values.reduce((text, value, i) => text.replace(`{${i}}`, () => value), words);
}
export const duration = (seconds) =>
  seconds < 100 ? say("seconds", Math.ceil(seconds)) : say("minutes", Math.ceil(seconds / 60));
