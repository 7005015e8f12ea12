// A text that is continued as it is.

import { ApiError, stream } from "./api.js";
import { $, fit } from "./dom.js";
import { told } from "./chat.js";
import { TokenText } from "./shares.js";

export class Complete {
  constructor(page) {
    this.page = page;
    this.running = null;
    this.tokens = null;
    $("complete-run").addEventListener("click", () => this.run());
    $("complete-stop").addEventListener("click", () => this.running?.abort());
    $("complete-take").addEventListener("click", () => this.take());
  }

  take() {
    $("complete-input").value += this.tokens.text;
    fit($("complete-input"));
    $("complete-output").replaceChildren();
    $("complete-take").hidden = true;
  }

  async run() {
    const prompt = $("complete-input").value;
    if (!prompt || this.running) return;
    const { options } = this.page.options();
    const output = $("complete-output");
    const text = document.createElement("div");
    const note = document.createElement("p");
    text.className = "text";
    text.tabIndex = 0;
    note.className = "hint";
    output.replaceChildren(text, note);
    this.tokens = new TokenText(text);
    const control = (this.running = new AbortController());
    $("complete-run").hidden = true;
    $("complete-stop").hidden = false;
    try {
      for await (const event of stream("/v1/completions", { prompt, ...options }, control.signal)) {
        const choice = event.choices[0];
        if (!choice) continue;
        this.tokens.add(choice.text, choice.logprobs?.content || []);
        if (choice.finish_reason) {
          note.textContent = told(event);
          this.page.learned(event);
        }
      }
    } catch (error) {
      note.textContent = error.name === "AbortError" ? "stopped" : error.message;
      if (error instanceof ApiError) this.page.report(error);
    } finally {
      this.tokens.finish();
      this.running = null;
      $("complete-run").hidden = false;
      $("complete-stop").hidden = true;
      $("complete-take").hidden = !this.tokens.text;
    }
  }
}
