// The dialog of settings.

import { $, onClick, onSubmit } from "../base/dom.js";
import { say } from "../base/language.js";
import { app, changed, keepSettings } from "../base/state.js";
import { SAMPLING, asSettings } from "../base/values.js";
import { forgetAll, freshChat, keep, openChat } from "../chats/chats.js";
import { closeMenu } from "./menu.js";

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

export function openSettings(field = null) {
  $("system").value = app.current.system;
  $("system-new").checked = app.current.system === app.settings.system;
  for (const name of Object.keys(SAMPLING)) $(name).value = app.settings[name] ?? "";
  $("length").value = app.settings.length ?? "";
  $("theme-choice").value = app.settings.theme;
  $("model-row").hidden = app.models.length < 2;
  $("model-choice").replaceChildren(...app.models.map((name) => new Option(name, name)));
  $("model-choice").value = app.models.includes(app.settings.model) ? app.settings.model : app.modelId;
  $("key-forget").hidden = app.key === null;
  closeMenu();
  $("settings").showModal();
  if (field) $(field).focus();
}
function saveSettings() {
  const sampling = Object.fromEntries(Object.keys(SAMPLING).map((name) => [name, number(name)]));
  const theme = $("theme-choice").value;
  app.current.system = $("system").value;
  const system = $("system-new").checked ? app.current.system : app.settings.system; // of new conversations
  const chosen = $("model-choice").value;
  const model = chosen === app.modelId ? null : chosen || app.settings.model;
  app.settings = asSettings({ ...app.settings, ...sampling, system, theme, model, length: number("length") });
  if (app.current.nodes.length > 0) keep(app.current);
  keepSettings();
  changed("theme");
  changed("chat");
  $("settings").close();
}
function deleteAll() {
  if (!confirm(say("deleteAllSure"))) return;
  forgetAll();
  $("settings").close();
  openChat(freshChat());
  changed("notice");
}

onClick("settings-open", () => openSettings());
onClick("delete-all", deleteAll);
onSubmit($("settings").querySelector("form"), saveSettings);
for (const node of document.querySelectorAll("[data-close]")) {
  node.addEventListener("click", () => node.closest("dialog").close());
}
