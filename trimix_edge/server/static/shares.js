// Text that grows by tokens, each tinted by the model that carried it, and the card of a token.

import { $, ROLES, el, isVertical, number } from "./dom.js";

const decoder = new TextDecoder();
const JOINS = /^[\p{M}\u200c\u200d\ufe00-\ufe0f\u180b-\u180e\u{1f3fb}-\u{1f3ff}]/u;

// A text that is only ever appended to: nothing that is shown is rendered again.
export class TokenText {
  constructor(node) {
    this.node = node;
    this.text = "";
    this.segments = [];
    this.waiting = []; // segments whose text the server still holds back
    this.bytes = []; // of a character that is not complete
    this.items = [];
    this.placed = 0;
    node.dir = "auto";
    node.classList.add("tokens");
  }

  // What one event adds: text that is certain, and the tokens that it may come from.
  add(text, items = []) {
    this.text += text;
    if (!items.length && !this.waiting.length && !this.items.length) {
      if (text) this.place({ items: [], shares: null }, text);
      return;
    }
    for (const item of items) this.take(item);
    this.settle();
    if (this.text.length < 40 || this.text.length % 50 === 0) this.orient();
  }

  take(item) {
    this.items.push(item);
    this.bytes.push(...item.bytes);
    const text = decoder.decode(new Uint8Array(this.bytes));
    if (text.endsWith("\ufffd") && this.bytes.length < 12) return;
    this.waiting.push({ text, items: this.items, shares: shares(this.items) });
    this.bytes = [];
    this.items = [];
  }

  settle() {
    while (this.waiting.length) {
      const { length } = this.waiting[0].text;
      if (this.text.length - this.placed < length) return;
      const segment = this.waiting.shift();
      this.place(segment, this.text.slice(this.placed, this.placed + length));
    }
  }

  // At the end: what is left of the text belongs to the last tokens, a stop string to none.
  finish() {
    const rest = this.text.slice(this.placed);
    if (rest) this.place(this.waiting[0] || { items: [], shares: null }, rest);
    this.waiting = [];
    this.orient();
  }

  place(segment, text) {
    this.placed += text.length;
    const last = this.segments.at(-1);
    const joins = last && (JOINS.test(text) || (!segment.shares && !last.shares));
    if (joins) {
      last.text += text;
      last.items.push(...segment.items);
      if (segment.shares && last.shares) last.shares = shares(last.items) || last.shares;
      last.node.firstChild.appendData(text);
      tint(last);
      return;
    }
    const made = { text, items: segment.items, shares: segment.shares };
    made.node = el("span", { class: "token" }, document.createTextNode(text));
    made.node.segment = made;
    tint(made);
    this.segments.push(made);
    this.node.append(made.node);
  }

  orient() {
    this.node.classList.toggle("vertical", isVertical(this.text));
  }

  // What is kept of the tokens: their text and shares.
  kept() {
    return this.segments.every((one) => one.shares)
      ? this.segments.map(({ text, shares: s }) => ({ text, shares: s }))
      : undefined;
  }

  restore(text, segments) {
    this.text = text;
    if (segments?.map((one) => one.text).join("") === text) {
      for (const one of segments) this.place({ items: one.items || [], shares: one.shares }, one.text);
    } else if (text) {
      this.place({ items: [], shares: null }, text);
    }
    this.orient();
  }
}

function shares(items) {
  const known = items.filter((item) => item.shares);
  if (!known.length) return null;
  return ROLES.map((role) => known.reduce((sum, i) => sum + (i.shares[role] || 0), 0) / known.length);
}

function tint({ node, shares: of }) {
  if (!of) return;
  const sizes = of.map(Math.abs);
  const total = sizes.reduce((a, b) => a + b, 0) || 1;
  const lead = sizes.indexOf(Math.max(...sizes));
  node.dataset.role = ROLES[lead];
  node.style.setProperty("--share", (sizes[lead] / total).toFixed(2));
}

export function showLegend() {
  $("legend").replaceChildren(
    ...ROLES.map((role) => el("li", {}, el("span", { class: "swatch", data: { role } }), role)),
  );
}

const percent = (part) => `${number(part * 100, part < 0.0995 ? 1 : 0)} %`;
const spelled = (token) => (token.length ? token.replaceAll("\n", "⏎").replaceAll(" ", "␣") : "∅");

function choices(list, chosen) {
  return el(
    "ol",
    {},
    ...list.slice(0, 4).map((one) =>
      el(
        "li",
        { class: one.id === chosen ? "chosen" : "" },
        el("bdi", { dir: "auto" }, spelled(one.token)),
        el("span", {}, percent(one.prob ?? Math.exp(one.logprob))),
      ),
    ),
  );
}

function columns(item) {
  const fused = [...item.top_logprobs];
  if (!fused.some((one) => one.id === item.id)) fused.push(item);
  const parts = [el("div", {}, el("h4", {}, "fused"), choices(fused, item.id))];
  for (const role of ROLES) {
    const list = item.models?.[role];
    if (!list?.length) continue;
    const share = item.shares?.[role];
    const title = el("h4", {}, el("span", { class: "swatch", data: { role } }), role);
    const told = share === undefined ? "" : `share ${number(share)}`;
    parts.push(el("div", {}, title, choices(list, item.id), el("p", { class: "hint" }, told)));
  }
  return parts;
}

function open(span) {
  const card = $("card");
  const { segment } = span;
  if (!segment?.shares) return;
  const told = segment.items.map((item) =>
    el(
      "section",
      {},
      el(
        "h3",
        {},
        el("bdi", { dir: "auto" }, spelled(item.token)),
        el("span", { class: "hint" }, ` token ${item.id}${item.drafted ? ", drafted" : ""}`),
      ),
      el("div", { class: "choices" }, ...columns(item)),
    ),
  );
  if (!told.length) {
    const list = ROLES.map((role, i) => `${role} ${number(segment.shares[i])}`).join(", ");
    told.push(el("p", {}, `${list}. The models' choices are kept until the page is left.`));
  }
  card.replaceChildren(...told);
  card.hidden = false;
  const box = span.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = card;
  const left = Math.min(Math.max(8, box.left), innerWidth - width - 8);
  const below = box.bottom + 6 + height < innerHeight;
  card.style.left = `${Math.max(8, left)}px`;
  card.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - height - 6)}px`;
  for (const one of document.querySelectorAll(".token.open")) one.classList.remove("open");
  span.classList.add("open");
}

export function close() {
  $("card").hidden = true;
  for (const one of document.querySelectorAll(".token.open")) one.classList.remove("open");
}

// One pair of listeners for all tokens there will ever be.
export function listen() {
  const on = () => document.body.classList.contains("shares");
  document.addEventListener("pointerover", (event) => {
    const span = event.target.closest?.(".token");
    if (event.pointerType !== "mouse" || !on()) return;
    if (span) open(span);
    else if (!event.target.closest?.("#card")) close();
  });
  document.addEventListener("click", (event) => {
    const span = event.target.closest?.(".token");
    if (span && on()) open(span);
    else if (!event.target.closest?.("#card")) close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const text = event.target.closest?.(".tokens");
    if (!text || !on()) return;
    const all = [...text.querySelectorAll(".token")];
    const place = all.findIndex((one) => one.classList.contains("open"));
    const next = all[place + (event.key === "ArrowRight" ? 1 : -1)] || all[0];
    if (next) open(next);
    event.preventDefault();
  });
  document.addEventListener("scroll", close, true);
}
