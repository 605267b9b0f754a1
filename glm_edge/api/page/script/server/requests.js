// Requests to the API, with the key where there is one. Paths are relative: the server may stand behind one of its own.

import { isObject } from "../base/dom.js";
import { say } from "../base/language.js";
import { app } from "../base/state.js";
import { Failure, refusal } from "./failures.js";

export async function request(path, body, signal, conversation) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (conversation) headers["X-Conversation"] = conversation; // a balancer keeps a conversation on one server by it
  if (app.key !== null) headers.Authorization = "Bearer " + app.key;
  const options = { method: body ? "POST" : "GET", headers, signal, cache: "no-store", credentials: "omit" };
  if (body) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(() => say("network"));
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw refusal(response.status, isObject(told?.error) ? told.error : {}, response.headers.get("Retry-After"));
}
