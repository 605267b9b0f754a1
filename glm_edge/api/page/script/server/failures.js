// What went wrong, in words for the reader: from a status, an error's code, or a connection that broke.

import { duration, say } from "../base/language.js";

export class Failure extends Error {
  constructor(words, status = 0, wait = 0) {
    super(status ? "HTTP " + status : "failure");
    this.words = words; // () => text, so that it follows the language
    this.status = status;
    this.wait = wait; // seconds until another try makes sense, 0 where nobody said
    this.at = performance.now();
  }
  text() {
    const left = this.wait - (performance.now() - this.at) / 1000;
    return this.words() + (left > 0 ? say("after", duration(left)) : "");
  }
}

const BY_CODE = {
  __proto__: null, context_length_exceeded: "eContext", rate_limit_exceeded: "eShare", server_is_overloaded: "eBusy",
  model_loading: "eLoading", shutting_down: "eClosing", engine_died: "eDied", engine_crash: "eCrash",
};
const BY_STATUS = { __proto__: null, 401: "e401", 403: "e403", 413: "e413", 429: "eBusy", 503: "eBusy" };

export function refusal(status, error, after = null) {
  const message = typeof error.message === "string" ? error.message : "HTTP " + status;
  const name = BY_CODE[error.code] ?? BY_STATUS[status] ?? (status >= 500 ? "e500" : "eOther");
  const wait = /^\d{1,6}$/.test(after ?? "") ? Number(after) : 0;
  return new Failure(() => say(name, message), status, wait);
}

export async function whyCut() {
  // The server says why and closes, but browsers drop what they have not handed on when a connection breaks.
  let state = null;
  try {
    state = (await (await fetch("health", { cache: "no-store", signal: AbortSignal.timeout(3000) })).json()).status;
  } catch {} // nobody there: then it is just cut
  const name = { __proto__: null, loading: "eDied", failed: "eDied", shutting_down: "eClosing" }[state] ?? "cut";
  return new Failure(() => say(name));
}
