// The conversation: messages, sending, stopping, regenerating, editing.

import { ApiError, stream } from "./api.js";
import { $, copy, el, fit, isVertical, number, sendsOnEnter } from "./dom.js";
import { TokenText } from "./shares.js";
import * as store from "./store.js";

const REASONS = { length: "cut off: the limit of tokens or of the context was reached" };

export class Chat {
  // page: options() of a request, report(error) and learned(event) of an answer.
  constructor(page) {
    this.page = page;
    this.running = null;
    this.details = new WeakMap(); // of a message's tokens; too much to be stored
    this.current = store.conversations()[0] || null;
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    sendsOnEnter($("input"), () => this.send());
    $("stop").addEventListener("click", () => this.stop());
    $("new-chat").addEventListener("click", () => this.open(null));
    store.follow(
      (one) => this.running && one === this.answering,
      (changed) => {
        const isOther = this.current && changed.has(this.current.id);
        if (isOther) this.current = store.find(this.current.id) || null;
        if (isOther) this.show();
        else this.list();
      },
    );
    this.show();
  }

  open(conversation) {
    if (conversation && conversation === this.current) return this.page.closeDrawers();
    this.stop();
    this.current = conversation;
    this.show();
    this.page.closeDrawers();
    $("input").focus();
  }

  show() {
    this.list();
    const messages = this.current?.messages || [];
    $("messages").replaceChildren(
      ...(messages.length ? messages.map((m, i) => this.message(m, i).node) : [this.welcome()]),
    );
    $("messages").scrollTop = $("messages").scrollHeight;
  }

  welcome() {
    return el(
      "div",
      { class: "welcome" },
      el("h2", {}, "Three models, one voice"),
      el(
        "p",
        {},
        "The next token of three models is chosen together. Write something, and see by its " +
          "colours which model carried each part of the answer. The point in the triangle sets " +
          "how much each of them counts.",
      ),
    );
  }

  list() {
    $("conversations").replaceChildren(
      ...store.conversations().map((one) =>
        el(
          "li",
          { class: one === this.current ? "current" : "" },
          el("button", { dir: "auto", onclick: () => this.open(one) }, one.title || "New conversation"),
          el("button", {
            class: "icon",
            textContent: "×",
            ariaLabel: `Remove ${one.title}`,
            onclick: () => {
              if (!confirm("Remove this conversation?")) return;
              store.remove(one.id);
              if (one === this.current) this.open(store.conversations()[0] || null);
              else this.list();
            },
          }),
        ),
      ),
    );
  }

  message(message, index) {
    const text = el("div", { class: "text", dir: "auto" });
    const tools = el("div", { class: "tools" });
    const note = el("span", { class: "hint" }, message.note || "");
    const node = el("article", { class: `message ${message.role}` }, text, tools);
    const tool = (name, act) => el("button", { onclick: () => !this.running && act() }, name);
    let tokens = null;
    if (message.role === "assistant") {
      tokens = new TokenText(text);
      text.tabIndex = 0;
      tokens.restore(message.content, this.details.get(message) || message.segments);
      tools.append(
        tool("Regenerate", () => this.answer(index)),
        tool("Copy", () => copy(message.content)),
        note,
      );
    } else {
      text.textContent = message.content;
      text.classList.toggle("vertical", isVertical(message.content));
      tools.append(tool("Edit", () => this.edit(node, message, index)));
    }
    return { node, tokens, note };
  }

  edit(node, message, index) {
    const area = el("textarea", { dir: "auto", value: message.content, ariaLabel: "Edit message" });
    const done = () => {
      if (!area.value.trim()) return;
      message.content = area.value;
      this.answer(index + 1);
    };
    node.replaceChildren(
      area,
      el(
        "div",
        { class: "row" },
        el("button", { class: "primary", onclick: done }, "Send again"),
        el("button", { onclick: () => this.show() }, "Cancel"),
      ),
    );
    sendsOnEnter(area, done);
    fit(area);
    area.focus();
  }

  send() {
    const content = $("input").value.trim();
    if (!content || this.running) return;
    $("input").value = "";
    fit($("input"));
    this.current ??= store.create();
    this.current.title ||= content.slice(0, 60);
    this.current.messages.push({ role: "user", content });
    this.answer(this.current.messages.length);
  }

  stop() {
    this.running?.abort();
  }

  // Generate the message at this place; what came after it is dropped.
  async answer(index) {
    const conversation = (this.answering = this.current);
    conversation.messages.length = index;
    const { system, options } = this.page.options();
    const messages = conversation.messages.map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: system });
    const message = { role: "assistant", content: "", note: "" };
    conversation.messages.push(message);
    this.show();
    const { node, tokens, note } = this.message(message, index);
    $("messages").lastChild.replaceWith(node);
    node.classList.add("running");
    const control = (this.running = new AbortController());
    this.busy(true);
    try {
      for await (const event of stream("/v1/chat/completions", { messages, ...options }, control.signal)) {
        const choice = event.choices[0];
        if (!choice) continue;
        const box = $("messages");
        const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
        tokens.add(choice.delta.content || "", choice.logprobs?.content || []);
        if (atEnd) box.scrollTop = box.scrollHeight;
        if (choice.finish_reason) {
          message.note = told(event, REASONS[choice.finish_reason]);
          this.page.learned(event);
        }
      }
    } catch (error) {
      message.note = error.name === "AbortError" ? "stopped" : error.message;
      if (error instanceof ApiError) this.page.report(error);
    } finally {
      tokens.finish();
      message.content = tokens.text;
      message.segments = tokens.kept();
      this.details.set(message, tokens.segments.map(({ node: _, ...one }) => one));
      note.textContent = message.note;
      node.classList.remove("running");
      this.running = null;
      this.busy(false);
      this.page.saved(store.save());
      // Left and opened again before the end was stored.
      if (conversation === this.current && !node.isConnected) this.show();
      else this.list();
    }
  }

  busy(is) {
    $("send").hidden = is;
    $("stop").hidden = !is;
  }
}

export function told(event, more) {
  const { timings, weights, rule } = event;
  const parts = [`${number(timings.predicted_per_second, 1)} tokens/s`];
  if (weights) {
    parts.push(`weights ${Object.values(weights).map((w) => number(w)).join(", ")}`);
  } else if (rule) {
    parts.push(rule);
  }
  if (timings.draft_n) parts.push(`${timings.draft_n_accepted} of ${timings.draft_n} drafts kept`);
  if (more) parts.push(more);
  return parts.join(" · ");
}
