// What the page knows at this moment, and news of it: who changes something says so, and who shows it listens.

import { read, write } from "./storage.js";
import { asSettings } from "./values.js";

const kept = read("sessionStorage", "key") ?? read("localStorage", "key");

export const app = {
  settings: asSettings(read("localStorage", "settings")),
  key: typeof kept === "string" ? kept : null, // the API key
  modelId: null,
  models: [], // names that a request can choose from: the model, then its adapters
  current: null, // the conversation that is shown
};
export function keepSettings() {
  write("localStorage", "settings", app.settings);
}

const listeners = new Map();
export function on(name, listener) {
  listeners.set(name, [...(listeners.get(name) ?? []), listener]);
}
export function changed(name, value) {
  for (const listener of listeners.get(name) ?? []) listener(value);
}
