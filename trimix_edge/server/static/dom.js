// Elements without HTML strings: whatever a model says can only become text.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const $ = (id) => document.getElementById(id);

export const ROLES = ["large_ins", "small_cpt", "small_base"];
export const ROLE_TEXT = {
  large_ins: "the large, instruction-tuned model: the task",
  small_cpt: "the small model trained on the language",
  small_base: "that small model before: subtracted, or added",
};

export function number(value, digits = 2) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

// Enter sends, unless an input method is composing; Shift+Enter is a new line.
export function sendsOnEnter(area, send) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send();
  });
  area.addEventListener("input", () => fit(area));
}

export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, 220)}px`;
}

// Traditional Mongolian is written from top to bottom; a text is set so if most of it is.
export function isVertical(text) {
  const letters = text.slice(0, 400).match(/\p{L}/gu) || [];
  const mongolian = letters.filter((letter) => /\p{Script=Mongolian}/u.test(letter));
  return mongolian.length * 2 > letters.length;
}

// Browsers give pages of another machine no clipboard over plain HTTP: then the old way.
export function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { value: text, readOnly: true });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
