// The three models as corners, and a point between or beyond them that sets the weights.
//
// A pair (large_ins, small_cpt) has a place in the plane; small_base has the rest. Inside the
// triangle all three are positive. Above its upper edge small_base is subtracted, up to Proxy
// Tuning at the top.

import { ROLES, number, svg } from "./dom.js";

const WIDTH = 336;
const CENTRE = { x: 168, y: 142 };
const HALF = 98;
const RISE = 112;
const GRID = [0.1, 0.3, 0.5, 0.7, 0.9, 1];

const place = (large, cpt) => ({
  x: CENTRE.x + (cpt - large) * HALF,
  y: CENTRE.y + (1 - large - cpt) * RISE,
});

const clamp = (value) => Math.min(1, Math.max(0, Math.round(value * 100) / 100));

export function weightsText([large, cpt]) {
  const base = 1 - large - cpt;
  return `large_ins ${number(large)}, small_cpt ${number(cpt)}, small_base ${number(base + 0)}`;
}

export class Triangle {
  constructor(node, { weights, onChange, onMark }) {
    this.weights = weights;
    this.onChange = onChange;
    this.onMark = onMark;
    this.marks = [
      { at: [1, 0], text: "large_ins alone" },
      { at: [0, 1], text: "small_cpt alone" },
      { at: [0, 0], text: "small_base alone" },
      { at: [1, 1], text: "Proxy Tuning" },
      { at: [0.5, 0.5], text: "average" },
    ];
    this.seen = svg("g", { class: "seen" });
    this.extra = svg("g");
    this.point = svg("g", {
      class: "point",
      tabindex: "0",
      role: "slider",
      "aria-label": "Weights",
      "aria-valuemin": "0",
      "aria-valuemax": "1",
    });
    this.point.append(svg("circle", { r: 22, class: "reach" }), svg("circle", { r: 9 }));
    this.root = svg("svg", { viewBox: `0 0 ${WIDTH} 284`, class: "triangle" });
    this.root.append(...this.ground(), this.extra, this.seen, this.point);
    node.replaceChildren(this.root);
    this.listen();
    this.show();
  }

  ground() {
    const [l, c, b, p] = [place(1, 0), place(0, 1), place(0, 0), place(1, 1)];
    const path = (...points) => points.map(({ x, y }) => `${x},${y}`).join(" ");
    const nodes = [
      svg("polygon", { points: path(l, c, p), class: "beyond" }),
      svg("polygon", { points: path(l, c, b), class: "inside" }),
    ];
    for (const large of GRID) {
      for (const cpt of GRID) {
        const { x, y } = place(large, cpt);
        nodes.push(svg("circle", { cx: x, cy: y, r: 2.2, class: "grid" }));
      }
    }
    const corner = (at, role, dx, dy, anchor) => {
      nodes.push(svg("circle", { cx: at.x, cy: at.y, r: 6, class: "corner", "data-role": role }));
      const text = svg("text", { x: at.x + dx, y: at.y + dy, "text-anchor": anchor });
      text.append(role);
      nodes.push(text);
    };
    corner(l, ROLES[0], -11, 4, "end");
    corner(c, ROLES[1], 11, 4, "start");
    corner(b, ROLES[2], 0, 22, "middle");
    nodes.push(svg("path", { d: `M${p.x} ${p.y - 6}l6 6l-6 6l-6-6z`, class: "mark" }));
    const proxy = svg("text", { x: p.x, y: p.y - 14, "text-anchor": "middle" });
    proxy.append("Proxy Tuning");
    const average = place(0.5, 0.5);
    nodes.push(proxy);
    nodes.push(svg("path", { d: `M${average.x - 4} ${average.y - 4}h8v8h-8z`, class: "mark" }));
    return nodes;
  }

  // The trio's own pair.
  mark(weights, text) {
    this.marks.push({ at: weights, text });
    const { x, y } = place(...weights);
    const star = [...Array(10).keys()].map((i) => {
      const [angle, radius] = [(i * Math.PI) / 5, i % 2 ? 3.4 : 8];
      return `${x + radius * Math.sin(angle)},${y - radius * Math.cos(angle)}`;
    });
    this.extra.append(svg("polygon", { points: star.join(" "), class: "own" }));
  }

  // Where the weights of past prompts came to lie, the last one last.
  remember(pairs) {
    this.seen.replaceChildren(
      ...pairs.map((pair, i) => {
        const { x, y } = place(...pair);
        const last = i === pairs.length - 1;
        return svg("circle", { cx: x, cy: y, r: last ? 7 : 4, class: last ? "last" : "" });
      }),
    );
  }

  set(large, cpt, { snap = false, silent = false } = {}) {
    let pair = [clamp(large), clamp(cpt)];
    if (snap) {
      const near = this.marks.find(({ at }) => Math.hypot(at[0] - pair[0], at[1] - pair[1]) < 0.035);
      if (near) pair = near.at;
    }
    this.weights = pair;
    this.show();
    if (!silent) this.onChange(pair);
  }

  show() {
    const { x, y } = place(...this.weights);
    this.point.setAttribute("transform", `translate(${x} ${y})`);
    this.point.setAttribute("aria-valuenow", String(this.weights[0]));
    this.point.setAttribute("aria-valuetext", weightsText(this.weights));
    const on = this.marks.find(({ at }) => at[0] === this.weights[0] && at[1] === this.weights[1]);
    this.onMark(on ? on.text : "");
  }

  listen() {
    const follow = (event) => {
      const box = this.root.getBoundingClientRect();
      const scale = WIDTH / box.width;
      const dx = ((event.clientX - box.left) * scale - CENTRE.x) / HALF;
      const sum = 1 - ((event.clientY - box.top) * scale - CENTRE.y) / RISE;
      this.set((sum - dx) / 2, (sum + dx) / 2, { snap: true });
    };
    this.root.addEventListener("pointerdown", (event) => {
      this.root.setPointerCapture(event.pointerId);
      this.dragging = true;
      this.point.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    this.root.addEventListener("pointermove", (event) => this.dragging && follow(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.root.addEventListener(name, () => (this.dragging = false));
    }
    this.point.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.01 : 0.05;
      const moves = { ArrowLeft: [1, -1], ArrowRight: [-1, 1], ArrowUp: [1, 1], ArrowDown: [-1, -1] };
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      this.set(this.weights[0] + move[0] * step, this.weights[1] + move[1] * step);
    });
  }
}
