// Conversations and settings, kept in this browser.

const PLACE = "trimix-edge";
const FORMAT = "trimix-edge conversations";

export const DEFAULTS = {
  mode: "fixed",
  weights: null,
  shares: true,
  system: "",
  sampling: {},
  seen: [],
};

const state = load();

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE)) || {};
    return {
      conversations: checked(found.conversations || []),
      settings: { ...DEFAULTS, ...(found.settings || {}) },
    };
  } catch {
    return { conversations: [], settings: { ...DEFAULTS } };
  }
}

export const settings = state.settings;
export const conversations = () => state.conversations;
export const find = (id) => state.conversations.find((one) => one.id === id);

// Returns what keeps it from being saved, or null.
export function save() {
  try {
    localStorage.setItem(PLACE, JSON.stringify(state));
    return null;
  } catch {
    // The details of tokens take most of the room: the oldest ones go first.
    for (const one of [...state.conversations].reverse()) {
      for (const message of one.messages) delete message.segments;
      try {
        localStorage.setItem(PLACE, JSON.stringify(state));
        return null;
      } catch {
        // Still too much.
      }
    }
    return "This browser has no room left: export the conversations and remove some.";
  }
}

// Another tab has saved: take up what it changed, but for what this one is writing. Calls
// changed() with the ids of conversations that are others now, or gone.
export function follow(isWriting, changed) {
  window.addEventListener("storage", ({ key }) => {
    if (key !== PLACE) return;
    const stored = load().conversations;
    const ids = new Set(stored.map((one) => one.id));
    const gone = state.conversations.filter((one) => !ids.has(one.id) && !isWriting(one));
    const different = [];
    const kept = stored.map((one) => {
      const own = find(one.id);
      if (!own || isWriting(own)) return own || one;
      if (JSON.stringify(own.messages) !== JSON.stringify(one.messages)) different.push(one.id);
      return Object.assign(own, one);
    });
    const begun = state.conversations.filter((one) => !ids.has(one.id) && isWriting(one));
    state.conversations = [...begun, ...kept];
    changed(new Set([...different, ...gone.map((one) => one.id)]));
  });
}

export function create() {
  const made = { id: crypto.randomUUID?.() || String(Math.random()), title: "", messages: [] };
  state.conversations.unshift(made);
  return made;
}

export function remove(id) {
  state.conversations = state.conversations.filter((one) => one.id !== id);
  save();
}

export function exported() {
  const content = { format: FORMAT, version: 1, conversations: state.conversations };
  return JSON.stringify(content, null, 1);
}

// Adds the conversations of a file; returns how many, or throws with a message for a person.
export function imported(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON: choose one that this page has exported.");
  }
  if (content?.format !== FORMAT) {
    throw new Error("This file holds no conversations of this page.");
  }
  const known = new Set(state.conversations.map((one) => one.id));
  const added = checked(content.conversations).filter((one) => !known.has(one.id));
  state.conversations.unshift(...added);
  save();
  return added.length;
}

function checked(list) {
  if (!Array.isArray(list)) return [];
  return list
    .filter((one) => one && Array.isArray(one.messages))
    .map((one) => ({
      id: String(one.id),
      title: String(one.title || ""),
      messages: one.messages
        .filter((m) => m && ["user", "assistant"].includes(m.role) && typeof m.content === "string")
        .map((m) => ({
          role: m.role,
          content: m.content,
          note: String(m.note || ""),
          segments: checkedSegments(m.segments),
        })),
    }));
}

function checkedSegments(list) {
  if (!Array.isArray(list)) return undefined;
  const fine = list.every(
    (s) => s && typeof s.text === "string" && Array.isArray(s.shares) && s.shares.every(Number.isFinite),
  );
  return fine ? list.map(({ text, shares }) => ({ text, shares })) : undefined;
}
