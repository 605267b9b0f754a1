// Between the page and the server: the model's name, the API key, and a notice of what is wrong.

import { $, onClick, onSubmit } from "../base/dom.js";
import { say } from "../base/language.js";
import { app, on } from "../base/state.js";
import { write } from "../base/storage.js";
import { storage } from "../chats/chats.js";
import { Failure } from "../server/failures.js";
import { request } from "../server/requests.js";

let notice = null; // { words, label, action }
let loading = 0;
let afterKey = null;

function showModel() {
  $("model").textContent = app.modelId ?? say("noModel");
  $("demo").hidden = app.modelId !== "glm-edge-demo";
}
function setNotice(next) {
  notice = next;
  showNotice();
}
function showNotice() {
  const text = notice ? notice.words() : storage.fails ? say("full") : "";
  const [place, act] = $("notice").children;
  $("notice").hidden = text === "";
  if (place.textContent !== text) place.textContent = text;
  act.hidden = notice === null;
  act.textContent = notice ? say(notice.label) : "";
}

export async function loadModel() {
  clearTimeout(loading);
  try {
    const list = await (await request("v1/models")).json();
    const id = list?.data?.[0]?.id;
    app.modelId = typeof id === "string" ? id : null;
    app.models = (list?.data ?? []).map((model) => model.id).filter((name) => typeof name === "string");
    setNotice(null);
    showModel();
  } catch (error) {
    if (error.status === 401) return askKey();
    const words = error instanceof Failure ? error.words : () => say("network");
    setNotice({ words, label: "connect", action: loadModel });
    if (error.wait) loading = setTimeout(loadModel, error.wait * 1000);
  }
}

function askKey(then = null) {
  afterKey = then ?? afterKey;
  setNotice({ words: () => say("keyNeeded"), label: "keyEnter", action: () => askKey() });
  $("key-wrong").hidden = true;
  $("key").value = "";
  if (!$("ask-key").open) $("ask-key").showModal();
  $("key").focus();
}
async function takeKey() {
  const given = $("key").value.trim();
  const before = app.key;
  app.key = given;
  try {
    if (!/^[\x21-\x7e]+$/.test(given)) throw new Failure(null, 401); // no header can carry it
    await request("v1/models");
  } catch (error) {
    app.key = before;
    $("key-wrong").textContent = error.status === 401 ? say("keyWrong") : error.words();
    $("key-wrong").hidden = false;
    return $("key").select();
  }
  write("sessionStorage", "key", app.key);
  write("localStorage", "key", $("key-keep").checked ? app.key : null);
  $("ask-key").close();
  loadModel();
  const then = afterKey;
  afterKey = null;
  if (then) then();
  else $("input").focus();
}
function forgetKey() {
  app.key = null;
  for (const area of ["sessionStorage", "localStorage"]) write(area, "key", null);
  $("settings").close();
  loadModel();
}

$("notice").lastElementChild.addEventListener("click", () => notice?.action());
onSubmit($("ask-key").querySelector("form"), takeKey);
onClick("key-forget", forgetKey);
on("notice", showNotice);
on("chat", showModel);
on("opened", showModel);
on("key-needed", askKey);
on("model-wanted", loadModel);
