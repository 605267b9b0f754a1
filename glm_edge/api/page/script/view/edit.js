// Editing a question in its place. What is sent is a branch: the question as it was, and its answers, are kept.

import { button, el } from "../base/dom.js";
import { say } from "../base/language.js";
import { app } from "../base/state.js";
import { send } from "../server/ask.js";
import { fit, sends } from "./field.js";

export function editQuestion(message, { body, under }, done) {
  const area = el("textarea", { className: "editor", value: message.content, ariaLabel: say("edit"), rows: 1 });
  const cancel = () => {
    done();
    under.querySelector(".edit").focus();
  };
  const ask = () => {
    if (area.value.trim() || message.files) send(app.current, area.value, message.files, message);
  };
  area.addEventListener("input", () => fit(area));
  area.addEventListener("keydown", (event) => {
    if (sends(event)) {
      event.preventDefault();
      ask();
    } else if (event.key === "Escape" && !event.isComposing) {
      event.stopPropagation(); // it would stop an answer
      cancel();
    }
  });
  body.hidden = false;
  body.replaceChildren(area);
  under.replaceChildren(button(say("cancel"), cancel), button(say("askAgain"), ask, "line"));
  fit(area);
  area.focus();
}
