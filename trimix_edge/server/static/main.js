// The page: its parts, its settings, and whether the server is there.

import * as api from "./api.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Complete } from "./complete.js";
import { $, ROLES, ROLE_TEXT, el, number } from "./dom.js";
import * as shares from "./shares.js";
import * as store from "./store.js";
import { Triangle } from "./triangle.js";

const SAMPLING = [
  { name: "temperature", text: "Temperature", step: 0.1, min: 0, max: 5 },
  { name: "top_p", text: "Top p", step: 0.05, min: 0, max: 1 },
  { name: "top_k", text: "Top k", step: 1, min: 0, max: 1000 },
  { name: "repeat_penalty", text: "Repeat penalty", step: 0.05, min: 0.5, max: 3 },
  { name: "max_tokens", text: "Tokens at most", step: 1, min: 1, max: 100000 },
  { name: "seed", text: "Seed", step: 1, min: 0, max: 4294967294 },
];
const { settings } = store;
let triangle = null;
let chat = null;
let serverRule = null; // what the server fuses with where no point was chosen; null for weights

const page = {
  // What a request says beside its prompt.
  options() {
    const options = { ...settings.sampling, explain: settings.shares };
    if (settings.shares) Object.assign(options, logprobs());
    if (settings.mode === "fixed" && settings.weights) options.weights = settings.weights;
    else if (settings.mode === "saf") options.rule = "saf";
    else if (settings.mode !== "fixed") options.weights = settings.mode;
    return { system: settings.system.trim(), options };
  },
  // Weights that the server chose for a prompt go onto the triangle.
  learned({ weights }) {
    if (!weights || !["auto", "entropy"].includes(settings.mode)) return;
    settings.seen = [...settings.seen, [weights.large_ins, weights.small_cpt]].slice(-50);
    triangle.remember(settings.seen);
    showWeights(settings.seen.at(-1));
    store.save();
  },
  report(error) {
    if (error.status === 401) {
      banner("The server asks for a key: write it into the settings.");
      openDrawer("panel");
      document.querySelector("details").open = true;
      $("key").focus();
    } else if (error.code === "away") {
      watch();
    }
  },
  saved(problem) {
    if (problem) banner(problem);
  },
  closeDrawers,
};

// Chat takes a switch and a number, completions a number alone.
function logprobs() {
  return document.body.dataset.view === "complete" ? { logprobs: 4 } : { logprobs: true, top_logprobs: 4 };
}

function banner(text) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
}

let watching = false;
// Ask for the server until it answers; the page stays usable meanwhile.
async function watch() {
  if (watching) return;
  watching = true;
  for (;;) {
    try {
      await api.get("/health");
      banner("");
      break;
    } catch (error) {
      banner(
        error.status === 503
          ? "The models are being loaded."
          : "The server does not answer. Conversations are safe in this browser; trying again.",
      );
      await new Promise((go) => setTimeout(go, 1500));
    }
  }
  watching = false;
  try {
    introduce(await api.get("/props"));
  } catch (error) {
    page.report(error);
  }
}

function introduce({ trio, default_generation_settings: defaults, build_info: build }) {
  $("trio-name").textContent = trio.name;
  document.title = `${trio.name} – trimix-edge`;
  $("about").textContent = `${trio.description} ${build}, context of ${defaults.n_ctx} tokens.`;
  const hasWeights = trio.weights && typeof trio.weights === "object";
  serverRule = trio.rule !== "trimix" ? trio.rule : hasWeights ? null : trio.weights;
  if (!introduce.done) {
    const own = hasWeights ? [trio.weights.large_ins, trio.weights.small_cpt] : null;
    if (own) triangle.mark(own, "the trio's own weights");
    if (own && !settings.weights) triangle.set(...own, { silent: true });
    else triangle.show();
    showMode();
    introduce.done = true;
  }
  for (const { name } of SAMPLING) {
    const value = defaults.params[name];
    $(`set-${name}`).placeholder = value === null || value === undefined ? "" : String(value);
  }
}

function showMode() {
  for (const button of $("mode").children) {
    button.ariaChecked = String(button.dataset.mode === settings.mode);
  }
  const isServers = settings.mode === "fixed" && !settings.weights && serverRule;
  $("mark-text").hidden = settings.mode !== "fixed" || Boolean(isServers);
  $("triangle").classList.toggle("chosen", settings.mode !== "fixed" || Boolean(isServers));
  const last = settings.seen.at(-1);
  const texts = {
    auto: "chosen for each prompt by its own likelihood",
    entropy: "chosen for each prompt by the first token",
    saf: "the weights change with each token",
  };
  if (isServers) $("weights-text").textContent = `as the server was started: ${serverRule}`;
  else if (settings.mode === "fixed") showWeights(triangle.weights);
  else if (settings.mode !== "saf" && last) showWeights(last);
  else $("weights-text").textContent = texts[settings.mode];
}

function showWeights([large, cpt]) {
  const values = [large, cpt, 1 - large - cpt];
  $("weights-text").replaceChildren(
    ...ROLES.map((role, i) =>
      el("span", {}, el("span", { class: "swatch", data: { role } }), ` ${role} `, el("b", {}, number(values[i] + 0))),
    ),
  );
}

function setMode(mode) {
  settings.mode = mode;
  showMode();
  store.save();
}

function setUpFusion() {
  triangle = new Triangle($("triangle"), {
    weights: settings.weights || [0.1, 0.9],
    onChange(weights) {
      settings.weights = weights;
      setMode("fixed");
    },
    onMark: (text) => {
      $("mark-text").textContent = text;
      $("mark-text").hidden = settings.mode !== "fixed";
    },
  });
  triangle.remember(settings.seen);
  for (const button of $("mode").children) {
    button.addEventListener("click", () => setMode(button.dataset.mode));
  }
  const show = () => document.body.classList.toggle("shares", settings.shares);
  $("show-shares").checked = settings.shares;
  $("show-shares").addEventListener("change", (event) => {
    settings.shares = event.target.checked;
    store.save();
    show();
  });
  show();
  shares.showLegend();
  for (const item of $("legend").children) item.title = ROLE_TEXT[item.textContent];
  shares.listen();
}

function setUpSettings() {
  $("sampling").replaceChildren(
    ...SAMPLING.map(({ name, text, ...range }) => {
      const input = el("input", { type: "number", id: `set-${name}`, ...range });
      input.value = settings.sampling[name] ?? "";
      input.addEventListener("change", () => {
        const value = input.valueAsNumber;
        if (Number.isNaN(value)) delete settings.sampling[name];
        else settings.sampling[name] = value;
        store.save();
      });
      return el("label", { class: "stack" }, text, input);
    }),
  );
  $("system").value = settings.system;
  $("system").addEventListener("change", (event) => {
    settings.system = event.target.value;
    store.save();
  });
  $("key-form").addEventListener("submit", (event) => event.preventDefault());
  $("key").value = api.getKey();
  $("key").addEventListener("change", (event) => {
    api.setKey(event.target.value.trim());
    watch();
  });
}

function setUpFiles() {
  $("export").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([store.exported()], { type: "application/json" }));
    el("a", { href: url, download: "trimix-edge-conversations.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (!file) return;
    try {
      const count = store.imported(await file.text());
      banner(`${count} new conversations.`);
      chat.list();
    } catch (error) {
      banner(error.message);
    }
  });
}

function openDrawer(name) {
  document.body.dataset.drawer = name;
  $("shade").hidden = false;
  $(`open-${name}`).ariaExpanded = "true";
}

function closeDrawers() {
  delete document.body.dataset.drawer;
  $("shade").hidden = true;
  for (const name of ["history", "panel"]) $(`open-${name}`).ariaExpanded = "false";
}

function setUpViews() {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.addEventListener("click", () => {
      document.body.dataset.view = tab.dataset.view;
      for (const other of document.querySelectorAll("[role=tab]")) {
        other.ariaSelected = String(other === tab);
      }
      for (const view of document.querySelectorAll(".view")) {
        view.hidden = view.id !== `view-${tab.dataset.view}`;
      }
      shares.close();
    });
  }
  for (const name of ["history", "panel"]) {
    $(`open-${name}`).addEventListener("click", () =>
      document.body.dataset.drawer === name ? closeDrawers() : openDrawer(name),
    );
  }
  $("shade").addEventListener("click", closeDrawers);
  document.addEventListener("keydown", (event) => event.key === "Escape" && closeDrawers());
}

setUpViews();
setUpFusion();
setUpSettings();
setUpFiles();
showMode();
chat = new Chat(page);
new Complete(page);
new Compare(page);
watch();
