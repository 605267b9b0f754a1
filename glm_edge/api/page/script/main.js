// The chat page: it speaks the same HTTP API as every other client, and keeps everything in the browser.
//
// base/ has what everyone uses, chats/ the conversations, server/ asking, text/ what becomes of a text, view/ what is
// seen. A folder imports from those before it. Who changes something says `changed(what)`; who shows it listens with
// `on(what)`.

import { $ } from "./base/dom.js";
import { loadChats } from "./chats/chats.js";
import "./view/composer.js";
import { loadModel } from "./view/connection.js";
import "./view/header.js";
import "./view/list.js";
import { showWords } from "./view/looks.js";
import "./view/messages.js";
import { toEnd } from "./view/scroll.js";
import "./view/settings.js";

loadChats();
showWords();
toEnd();
loadModel();
if (matchMedia("(pointer: fine)").matches) $("input").focus(); // on a phone it would open the keyboard
