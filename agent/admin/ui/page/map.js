// SPDX-License-Identifier: Apache-2.0

// The map: processes of workloads on the left, hosts on the right, and a line for each
// outcome between two of them. The lines are for the eye; the table has the same rows.

import { byId, clean, count, el, setText, svg } from "./dom.js";
import { OUTCOMES } from "./model.js";

/** How many processes and hosts are shown at most. */
const MOST = 24;
const RECENT = 4000;
const order = Object.keys(OUTCOMES);

/** Which side of a flow a node stands for. */
export const SIDES = { who: (f) => JSON.stringify([f.workload, f.process]), host: (f) => f.host };

export class FlowMap {
  constructor({ pick, open }) {
    this.pick = pick;
    this.open = open;
    this.nodes = { who: new Map(), host: new Map() };
    this.lists = { who: el("div", { class: "side who" }), host: el("ul", { class: "side host", "aria-label": "Hosts" }) };
    this.lines = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.empty = el("p", { class: "empty" }, "Nothing to show. Flows appear here as workloads make them.");
    this.more = el("p", { class: "quiet more" });
    this.box = el("div", { class: "map" }, this.lists.who, this.lines, this.lists.host);
    byId("map").append(this.empty, this.box, this.more);
    new ResizeObserver(() => this.#draw()).observe(this.box);
  }

  /** show draws flows; picked is the node that was chosen, or null. */
  show(flows, picked, now) {
    const drawn = flows.filter((f) => !f.dns || f.outcome === "denied" || f.outcome === "would");
    this.empty.hidden = drawn.length > 0;
    this.box.hidden = drawn.length === 0;
    const nodes = { who: this.#collect(drawn, SIDES.who), host: this.#collect(drawn, SIDES.host) };
    this.edges = new Map();
    for (const f of drawn) {
      const who = SIDES.who(f), host = SIDES.host(f);
      if (!nodes.who.has(who) || !nodes.host.has(host)) continue;
      const id = JSON.stringify([who, host, f.outcome]);
      const e = this.edges.get(id) ?? { who, host, outcome: f.outcome, count: 0, last: 0, flow: f };
      e.count += f.count;
      if (f.last >= e.last) { e.last = f.last; e.flow = f; }
      this.edges.set(id, e);
    }
    this.now = now;
    this.picked = picked;
    this.#left([...nodes.who.values()]);
    this.#list(this.lists.host, "host", [...nodes.host.values()].sort((a, b) => a.rank - b.rank || a.flow.host.localeCompare(b.flow.host)));
    const hidden = (side) => new Set(drawn.map(SIDES[side])).size - nodes[side].size;
    const words = [[hidden("who"), "processes"], [hidden("host"), "hosts"]].filter(([n]) => n > 0).map(([n, what]) => `${count(n)} more ${what}`);
    setText(this.more, words.length ? words.join(" and ") + " are in the table; filter to see them here." : "");
    this.#draw();
  }

  /** collect sums flows up to the nodes of a side, those that were seen last first. */
  #collect(flows, key) {
    const all = new Map();
    for (const f of flows) {
      const id = key(f);
      const n = all.get(id) ?? { id, flow: f, count: 0, last: 0, rank: 9, outcomes: new Set() };
      n.count += f.count;
      n.last = Math.max(n.last, f.last);
      n.outcomes.add(f.outcome);
      n.rank = Math.min(n.rank, order.indexOf(f.outcome));
      all.set(id, n);
    }
    const kept = [...all.values()].sort((a, b) => b.last - a.last || (a.id < b.id ? -1 : 1)).slice(0, MOST);
    return new Map(kept.map((n) => [n.id, n]));
  }

  /** left lists processes below their workloads. */
  #left(nodes) {
    const groups = Map.groupBy(nodes.sort((a, b) => a.flow.workload.localeCompare(b.flow.workload) || a.flow.process.localeCompare(b.flow.process)), (n) => n.flow.workload);
    this.groups ??= new Map();
    for (const [name, g] of this.groups) if (!groups.has(name)) { g.remove(); this.groups.delete(name); }
    let at = this.lists.who.firstChild;
    const gone = new Set(this.nodes.who.keys());
    for (const [name, list] of groups) {
      let g = this.groups.get(name);
      if (!g) {
        const label = clean(name);
        g = el("section", { class: "group" }, el("h3", { title: label }, el("bdi", {}, label)), el("ul", { "aria-label": "Processes of " + label }));
        this.groups.set(name, g);
      }
      if (at !== g) this.lists.who.insertBefore(g, at); else at = at.nextSibling;
      this.#list(g.lastChild, "who", list);
      for (const n of list) gone.delete(n.id);
    }
    for (const id of gone) this.nodes.who.delete(id);
  }

  /** list makes a list of nodes have these, and leaves the elements that it has. */
  #list(ul, side, nodes) {
    const known = this.nodes[side];
    const kept = new Set();
    let at = ul.firstChild;
    for (const n of nodes) {
      const b = this.#button(side, n);
      kept.add(b.parentNode);
      if (at !== b.parentNode) ul.insertBefore(b.parentNode, at); else at = at.nextSibling;
    }
    for (const li of [...ul.children]) if (!kept.has(li)) li.remove();
    if (side === "host") for (const [id, b] of known) if (!kept.has(b.parentNode)) known.delete(id);
  }

  #button(side, n) {
    let b = this.nodes[side].get(n.id);
    if (!b) {
      const hover = (on) => () => this.#dim(on ? { side, id: n.id } : null);
      const label = clean(side === "who" ? n.flow.process : n.flow.host);
      b = el("button", {
        type: "button", class: "node", title: label, click: () => this.pick(side, n.id, label),
        pointerenter: hover(true), pointerleave: hover(false), focus: hover(true), blur: hover(false),
      }, el("bdi", { class: "label" }, label), el("span", { class: "signs" }), el("span", { class: "count" }));
      el("li", {}, b);
      this.nodes[side].set(n.id, b);
    }
    const chosen = this.picked?.side === side && this.picked.id === n.id;
    b.setAttribute("aria-pressed", String(chosen));
    setText(b.querySelector(".count"), count(n.count));
    const signs = order.filter((o) => n.outcomes.has(o));
    const box = b.querySelector(".signs");
    if (box.dataset.signs !== signs.join()) {
      box.dataset.signs = signs.join();
      box.replaceChildren(...signs.map((o) => el("i", { class: "sign " + o, title: OUTCOMES[o].name }, el("span", { "aria-hidden": "true" }, OUTCOMES[o].sign), el("span", { class: "unseen" }, OUTCOMES[o].name + " "))));
    }
    return b;
  }

  /** draw puts the lines between where the nodes are now. */
  #draw() {
    if (!this.edges || this.box.hidden) return;
    const at = this.lines.getBoundingClientRect();
    this.lines.setAttribute("viewBox", `0 0 ${at.width} ${at.height}`);
    const middle = (b) => { const r = b.getBoundingClientRect(); return r.top + r.height / 2 - at.top; };
    const most = Math.max(1, ...[...this.edges.values()].map((e) => e.count));
    this.lines.replaceChildren(...[...this.edges.values()].sort((a, b) => order.indexOf(a.outcome) - order.indexOf(b.outcome)).map((e) => {
      const shift = (order.indexOf(e.outcome) - 1.5) * 4;
      const y1 = middle(this.nodes.who.get(e.who)) + shift, y2 = middle(this.nodes.host.get(e.host)) + shift;
      const d = `M0 ${y1} C ${at.width * 0.5} ${y1} ${at.width * 0.5} ${y2} ${at.width - 7} ${y2}`;
      const tip = at.width - 1;
      const head = e.outcome === "denied" ? `M${tip - 9} ${y2 - 4}l8 8m0-8l-8 8` : `M${tip - 7} ${y2 - 4}L${tip} ${y2}L${tip - 7} ${y2 + 4}`;
      const g = svg("g", { class: `edge ${e.outcome}${this.now - e.last < RECENT ? " recent" : ""}`, click: () => this.open(e.flow) },
        svg("path", { class: "reach", d }), svg("path", { class: "line", d, "stroke-width": (1.5 + 2.5 * Math.log(e.count + 1) / Math.log(most + 1)).toFixed(2) }),
        svg("path", { class: "head", d: head }),
        svg("title", {}, `${clean(e.flow.process)} → ${clean(e.flow.host)}: ${count(e.count)} ${OUTCOMES[e.outcome].name.toLowerCase()}`));
      e.shape = g;
      return g;
    }));
    this.#dim(this.picked);
  }

  /** dim leaves only the lines of a node bright; null: all of them. */
  #dim(node) {
    const n = node ?? this.picked;
    for (const e of this.edges?.values() ?? []) e.shape?.classList.toggle("dim", n !== null && n !== undefined && e[n.side] !== n.id);
  }
}
