// An answer that is under way: what came of it, how far it is, and its figures at the end.

import { announce } from "../base/announce.js";
import { isObject } from "../base/dom.js";
import { duration, say } from "../base/language.js";
import { app } from "../base/state.js";
import { asMessage } from "../base/values.js";
import { addMessage } from "../chats/tree.js";
import { Failure, refusal } from "./failures.js";

export class Run {
  constructor(chat, question) {
    this.chat = chat;
    this.question = question;
    this.answer = addMessage(chat, question.id, { role: "assistant", content: "", meta: {} });
    this.control = new AbortController();
    this.start = performance.now();
    this.firstAt = null; // of the first word, and of the last; milliseconds of performance.now()
    this.lastAt = null;
    this.pieces = 0; // events with text: about one a token
    this.state = { name: "wait" };
    this.usage = null;
    this.figures = {}; // the server's own
    this.finish = null;
    this.done = false;
    this.spoken = 0; // characters of the answer that screen readers were given
  }
  progress() {
    const state = this.state;
    if (this.pieces > 0) {
      const rate = this.rate(this.pieces);
      return [say("answering") + (rate === null ? "" : " · ≈ " + say("rate", rate.toFixed(1))), null];
    }
    if (state.name === "queue") {
      return [say("queue", state.place) + (state.eta === null ? "" : say("eta", duration(state.eta))), null];
    }
    if (state.name === "prefill") return [say("prefill", Math.floor(100 * state.share), state.total), state.share];
    const seconds = Math.floor((performance.now() - this.start) / 1000);
    return [say("waiting") + (seconds >= 2 ? " " + duration(seconds) : ""), null];
  }
  rate(tokens) {
    // The first token belongs to reading the question: n tokens take n - 1 intervals.
    return tokens > 1 && this.lastAt > this.firstAt ? ((tokens - 1) * 1000) / (this.lastAt - this.firstAt) : null;
  }
  comment(text) {
    const queue = /^queue (\d+)(?: eta (\d+))?$/.exec(text);
    const prefill = /^prefill (\d+)\/(\d+)$/.exec(text);
    const before = this.state;
    if (queue) this.state = { name: "queue", place: queue[1], eta: queue[2] === undefined ? null : Number(queue[2]) };
    else if (prefill && Number(prefill[2])) {
      this.state = { name: "prefill", share: Math.min(1, prefill[1] / prefill[2]), total: prefill[2] };
    } else if (prefill) this.state = { name: "wait" };
    // Not each time that a second less is left: a screen reader would talk of nothing else.
    const news = before.name !== this.state.name || before.place !== this.state.place;
    if (news && this.chat === app.current && this.pieces === 0) announce(this.progress()[0]);
  }
  event(data) {
    if (data === "[DONE]") return void (this.done = true);
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      throw new Failure(() => say("cut"));
    }
    if (isObject(event?.error)) throw refusal(event.error.type === "server_error" ? 500 : 400, event.error);
    if (isObject(event?.usage)) this.usage = event.usage;
    if (isObject(event?.glm_edge)) this.figures = event.glm_edge;
    const choice = event?.choices?.[0];
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    const text = choice?.delta?.content;
    if (typeof text !== "string" || text === "") return;
    this.lastAt = performance.now();
    this.firstAt ??= this.lastAt;
    this.pieces += 1;
    this.answer.content += text;
  }
  speak(all) {
    const rest = this.answer.content.slice(this.spoken);
    const whole = all ? rest : (/^[\s\S]*(?:[。！？；\n]|[.!?;](?=\s))/.exec(rest)?.[0] ?? "");
    this.spoken += whole.length;
    if (this.chat === app.current) announce(whole);
  }
  end(how) {
    const meta = { total: (performance.now() - this.start) / 1000, trimmed: this.figures.trimmed_rounds };
    if (this.firstAt !== null) meta.first = (this.firstAt - this.start) / 1000;
    const tokens = this.usage?.completion_tokens;
    if (Number.isFinite(tokens)) {
      meta.tokens = tokens;
      meta.prompt = this.usage.prompt_tokens;
      meta.cached = this.usage.prompt_tokens_details?.cached_tokens;
    }
    // The server's own time where it is told: pieces may arrive together.
    const decode = this.figures.decode_ms;
    const rate = decode > 0 && tokens > 1 ? ((tokens - 1) * 1000) / decode : this.rate(tokens ?? this.pieces);
    if (rate !== null) meta.rate = rate;
    meta.end = how ?? (this.finish === "length" ? "limit" : undefined);
    this.answer.meta = asMessage({ ...this.answer, meta }).meta;
  }
}
