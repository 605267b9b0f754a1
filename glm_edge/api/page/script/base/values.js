// Values from storage or a file, checked field by field: whatever is wrong becomes the default or is left out.

import { isObject } from "./dom.js";

// Fields of sampling: the lowest and highest value that the server takes, whether only whole numbers, and the page's
// default. null is sent as nothing: the server's own default holds.
export const SAMPLING = {
  temperature: { min: 0, max: 2, initial: 0.8 }, // the model's own
  top_p: { min: 0, max: 1, initial: null },
  top_k: { min: 0, max: 1e6, whole: true, initial: null },
  seed: { min: 0, max: Number.MAX_SAFE_INTEGER, whole: true, initial: null },
  presence_penalty: { min: -2, max: 2, initial: null },
  frequency_penalty: { min: -2, max: 2, initial: null },
  repetition_penalty: { min: 0.1, max: 10, initial: null },
};

const isText = (value) => typeof value === "string";
const fits = (value, { min, max, whole }) =>
  Number.isFinite(value) && value >= min && value <= max && (!whole || Number.isInteger(value));

export function asSettings(value) {
  const given = isObject(value) ? value : {};
  const { lang, theme, system, length, model } = given;
  const settings = {
    lang: lang === "en" || lang === "zh" ? lang : null, // null: as the browser
    theme: theme === "light" || theme === "dark" ? theme : "auto",
    system: isText(system) ? system : "",
    length: Number.isInteger(length) && length > 0 ? length : null,
    model: isText(model) ? model : null, // null: the model without an adapter
  };
  for (const [name, rule] of Object.entries(SAMPLING)) {
    settings[name] = fits(given[name], rule) ? given[name] : rule.initial;
  }
  return settings;
}

function asMeta(value) {
  const given = isObject(value) ? value : {};
  const meta = {};
  for (const name of ["tokens", "prompt", "cached", "rate", "first", "total", "trimmed"]) {
    if (Number.isFinite(given[name])) meta[name] = given[name];
  }
  if (["stopped", "cutShort", "limit"].includes(given.end)) meta.end = given.end;
  return meta;
}

function asFile(value) {
  return isObject(value) && isText(value.name) && isText(value.text) ? { name: value.name, text: value.text } : null;
}

export function asMessage(value) {
  if (!isObject(value) || !["user", "assistant"].includes(value.role) || !isText(value.content)) return null;
  const message = { role: value.role, content: value.content, meta: asMeta(value.meta) };
  const files = Array.isArray(value.files) ? value.files.map(asFile).filter((file) => file !== null) : [];
  return files.length > 0 ? { ...message, files } : message;
}

export function asChat(value) {
  // A conversation as tree.js has it. Before there were branches, `messages` was a plain list.
  if (!isObject(value) || !isText(value.id)) return null;
  const listed = Array.isArray(value.messages) ? value.messages : [];
  const plain = listed.map((message, i) => isObject(message) && { ...message, id: i + 1 });
  const chat = {
    id: value.id,
    updated: Number.isFinite(value.updated) ? value.updated : 0,
    system: isText(value.system) ? value.system : "",
    title: isText(value.title) ? value.title.slice(0, 200) : "",
    nodes: [],
    chosen: {},
  };
  // Ids are given anew, 1 to n: however large those of a file are, there is always a next one.
  const ids = new Map([[0, 0]]); // as given -> as ours
  const shown = isObject(value.chosen) ? value.chosen : {};
  let before = 0;
  for (const given of Array.isArray(value.nodes) ? value.nodes : plain) {
    const message = asMessage(given);
    if (message === null || !Number.isSafeInteger(given.id) || ids.has(given.id)) continue;
    const parent = given.parent ?? before;
    if (!ids.has(parent)) continue; // of a message that is not there: nobody could see it
    const id = ids.size;
    ids.set((before = given.id), id);
    chat.nodes.push({ ...message, id, parent: ids.get(parent) });
    if (shown[parent] === given.id) chat.chosen[ids.get(parent)] = id;
  }
  return chat.nodes.length > 0 ? chat : null;
}
