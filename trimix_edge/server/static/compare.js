// The same prompt through four systems at once: the server runs them in one batch.

import { ApiError, stream } from "./api.js";
import { $, el, number, sendsOnEnter } from "./dom.js";
import { TokenText } from "./shares.js";

const SYSTEMS = [
  { name: "large_ins", told: "the large model alone", own: { rule: "single:large_ins" } },
  { name: "small_cpt", told: "the small trained model alone", own: { rule: "single:small_cpt" } },
  { name: "Proxy Tuning", told: "weights 1, 1, −1", own: { rule: "proxy" } },
  { name: "TriMix", told: "the weights of the triangle", own: null },
];

export class Compare {
  constructor(page) {
    this.page = page;
    this.running = null;
    this.columns = SYSTEMS.map((system) => this.column(system));
    $("columns").replaceChildren(...this.columns.map((column) => column.node));
    $("compare-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    sendsOnEnter($("compare-input"), () => this.run());
    $("compare-stop").addEventListener("click", () => this.running?.abort());
  }

  column(system) {
    const text = el("div", { class: "text", dir: "auto", tabIndex: 0 });
    const speed = el("p", { class: "speed" }, " ");
    const node = el(
      "section",
      { class: "column" },
      el("h3", {}, system.name),
      el("p", { class: "hint" }, system.told),
      text,
      speed,
    );
    return { system, node, text, speed };
  }

  async run() {
    const prompt = $("compare-input").value.trim();
    if (!prompt || this.running) return;
    this.running = new AbortController();
    $("compare-run").hidden = true;
    $("compare-stop").hidden = false;
    await Promise.all(this.columns.map((column) => this.fill(column, prompt)));
    this.running = null;
    $("compare-run").hidden = false;
    $("compare-stop").hidden = true;
  }

  async fill(column, prompt) {
    const { system, options } = this.page.options();
    const { weights, rule, ...others } = options;
    const fusion = column.system.own || Object.fromEntries(
      Object.entries({ weights, rule }).filter(([, value]) => value !== undefined),
    );
    const messages = [{ role: "user", content: prompt }];
    if (system) messages.unshift({ role: "system", content: system });
    column.text.className = "text";
    column.text.replaceChildren();
    column.speed.textContent = "…";
    column.node.classList.add("running");
    const tokens = new TokenText(column.text);
    const began = performance.now();
    let counted = 0;
    try {
      const body = { messages, ...others, ...fusion };
      for await (const event of stream("/v1/chat/completions", body, this.running.signal)) {
        const choice = event.choices[0];
        if (!choice) continue;
        tokens.add(choice.delta.content || "", choice.logprobs?.content || []);
        counted += 1;
        if (choice.finish_reason) {
          const seconds = Math.max(event.timings.predicted_ms / 1000, 1e-3);
          const characters = [...tokens.text].length;
          column.speed.textContent =
            `${number(event.timings.predicted_per_second, 1)} tokens/s · ` +
            `${number(characters / seconds, 1)} characters/s`;
          if (!column.system.own) this.page.learned(event);
        } else {
          const rate = counted / ((performance.now() - began) / 1000);
          column.speed.textContent = `${number(rate, 1)} tokens/s`;
        }
      }
    } catch (error) {
      column.speed.textContent = error.name === "AbortError" ? "stopped" : error.message;
      if (error instanceof ApiError) this.page.report(error);
    } finally {
      tokens.finish();
      column.node.classList.remove("running");
    }
  }
}
