// The words of the page in its language, and its theme.

import { $, onClick } from "../base/dom.js";
import { lang, say } from "../base/language.js";
import { app, changed, keepSettings, on } from "../base/state.js";

const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (app.settings.theme === "auto" ? systemDark.matches : app.settings.theme === "dark");

export function showWords() {
  document.documentElement.lang = lang() === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = say(node.dataset.t);
  for (const node of document.querySelectorAll("[data-label]")) node.ariaLabel = say(node.dataset.label);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = say(node.dataset.hint);
  $("lang").textContent = say("otherLang");
  $("lang").lang = lang() === "zh" ? "en" : "zh-CN";
  showTheme();
  for (const what of ["chats", "chat", "notice"]) changed(what);
}
function showTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  $("theme").textContent = say(isDark() ? "themeLight" : "themeDark");
}

onClick("lang", () => {
  app.settings.lang = lang() === "zh" ? "en" : "zh";
  keepSettings();
  showWords();
});
onClick("theme", () => {
  app.settings.theme = isDark() ? "light" : "dark";
  keepSettings();
  showTheme();
});
systemDark.addEventListener("change", showTheme);
on("theme", showTheme);
