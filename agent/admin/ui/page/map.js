// SPDX-License-Identifier: Apache-2.0

// The map: processes of workloads on the left, hosts on the right, and a line for each
// outcome between two of them. When there are too many processes, they are folded into
// their workloads. The lines are for the eye; the table has the same rows.

import { byId, clean, count, el, setText, svg } from "./dom.js";
import { OUTCOMES, passed } from "./model.js";

/** How many processes and hosts are shown at most. */
const MOST = 24;
const RECENT = 4000;
const order = Object.keys(OUTCOMES);

/** What of a flow a node stands for. */
export const SIDES = { who: (f) => JSON.stringify([f.workload, f.process]), workload: (f) => f.workload, host: (f) => f.host };

/** How these are called. */
export const NAMES = { who: "Process", workload: "Workload", host: "Host" };

export class FlowMap {
  constructor({ pick, open }) {
    this.pick = pick;
    this.open = open;
    this.nodes = { who: new Map(), host: new Map() };
    this.groups = new Map();
    this.left = "who"; // or "workload"
    this.lists = { who: el("div", { class: "side who" }), host: el("ul", { class: "side host", "aria-label": "Hosts" }) };
    this.lines = svg("svg", { class: "lines", "aria-hidden": "true" });
    this.empty = el("p", { class: "empty" });
    this.more = el("p", { class: "quiet more" });
    this.box = el("div", { class: "map" }, this.lists.who, this.lines, this.lists.host);
    byId("map").append(this.empty, this.box, this.more);
    new ResizeObserver(() => this.#draw()).observe(this.box);
  }

  /** show draws flows; picked is the node that was chosen, or null; why says why there are none. */
  show(flows, picked, now, why) {
    let drawn = flows.filter((f) => !f.dns || !passed(f));
    let chosen = this.#choose(drawn);
    if (picked && chosen.hidden) {
      // Of one that was chosen all is to be seen, in the place of the others.
      drawn = drawn.filter((f) => SIDES[picked.side](f) === picked.id);
      chosen = this.#choose(drawn);
    }
    const { left, edges, nodes } = chosen;
    setText(this.empty, why || "No connection: the questions to DNS are in the table.");
    this.empty.hidden = drawn.length > 0;
    this.box.hidden = drawn.length === 0;
    this.edges = edges;
    this.now = now;
    this.picked = picked;
    if (left !== this.left) {
      // Processes become workloads, or the other way.
      this.lists.who.replaceChildren();
      this.groups = new Map();
      this.nodes.who = new Map();
      this.left = left;
    }
    this.#left([...nodes.who.values()]);
    this.#hosts([...nodes.host.values()]);
    this.#rest(drawn, nodes);
    this.#draw();
  }

  /** rest says what is not shown. */
  #rest(drawn, nodes) {
    const said = [];
    if (this.left === "workload") said.push("Processes are folded into their workloads.");
    const hidden = [[SIDES[this.left], nodes.who, this.left === "who" ? "processes" : "workloads"], [SIDES.host, nodes.host, "hosts"]]
      .map(([key, shown, what]) => [new Set(drawn.map(key)).size - shown.size, what]).filter(([n]) => n > 0).map(([n, what]) => `${count(n)} more ${what}`);
    if (hidden.length) said.push(`${hidden.join(" and ")} are in the table; choose one or filter to see more of it here.`);
    setText(this.more, said.join(" "));
  }

  /**
   * choose sums flows up to lines, and takes as many as there is room for on both sides,
   * so that each node has a line. Of each outcome those that are most come first.
   */
  #choose(flows) {
    const left = new Set(flows.map(SIDES.who)).size > MOST ? "workload" : "who";
    const all = new Map();
    for (const f of flows) {
      const who = SIDES[left](f), host = SIDES.host(f);
      const id = JSON.stringify([who, host, f.outcome]);
      const e = all.get(id) ?? { id, who, host, outcome: f.outcome, count: 0, last: 0, flow: f };
      e.count += f.count;
      if (f.last >= e.last) { e.last = f.last; e.flow = f; }
      all.set(id, e);
    }
    const nodes = { who: new Map(), host: new Map() };
    const edges = new Map();
    const queues = order.map((o) => [...all.values()].filter((e) => e.outcome === o).sort((a, b) => b.count - a.count || (a.id < b.id ? -1 : 1)));
    for (let i = 0; queues.some((q) => i < q.length); i++) {
      for (const q of queues) {
        const e = q[i];
        if (!e || ["who", "host"].some((side) => !nodes[side].has(e[side]) && nodes[side].size === MOST)) continue;
        for (const side of ["who", "host"]) this.#count(nodes[side], e[side], e);
        edges.set(e.id, e);
      }
    }
    return { left, edges, nodes, hidden: edges.size < all.size || left === "workload" };
  }

  /** count adds a line to the node at its end. */
  #count(nodes, id, e) {
    const n = nodes.get(id) ?? { id, flow: e.flow, count: 0, rank: 9, outcomes: new Set(), ends: [] };
    n.count += e.count;
    n.outcomes.add(e.outcome);
    n.rank = Math.min(n.rank, order.indexOf(e.outcome));
    n.ends.push(e.who);
    nodes.set(id, n);
  }

  /** hosts lists hosts by how they were reached, and beside who reached them: lines cross less. */
  #hosts(nodes) {
    const places = new Map([...this.nodes.who.keys()].map((id) => [id, this.place.get(id) ?? 0]));
    for (const n of nodes) n.place = n.ends.reduce((sum, id) => sum + (places.get(id) ?? 0), 0) / n.ends.length;
    this.#list(this.lists.host, "host", nodes.sort((a, b) => a.rank - b.rank || a.place - b.place || a.flow.host.localeCompare(b.flow.host)));
  }

  /** left lists processes below their workloads, or workloads. */
  #left(nodes) {
    nodes.sort((a, b) => a.flow.workload.localeCompare(b.flow.workload) || a.flow.process.localeCompare(b.flow.process));
    this.place = new Map(nodes.map((n, i) => [n.id, i]));
    const groups = Map.groupBy(nodes, (n) => this.left === "who" ? n.flow.workload : "Workloads");
    for (const [name, g] of this.groups) if (!groups.has(name)) { g.remove(); this.groups.delete(name); }
    let at = this.lists.who.firstChild;
    const gone = new Set(this.nodes.who.keys());
    for (const [name, list] of groups) {
      let g = this.groups.get(name);
      if (!g) {
        const label = clean(name);
        g = el("section", { class: "group" }, el("h3", { title: label }, el("bdi", {}, label)), el("ul", { "aria-label": this.left === "who" ? "Processes of " + label : label }));
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
      const hover = (on) => () => this.#dim(on ? { side: side === "who" ? this.left : side, id: n.id } : null);
      const stands = side === "who" ? this.left : side;
      const label = clean({ who: n.flow.process, workload: n.flow.workload, host: n.flow.host }[stands]);
      b = el("button", {
        type: "button", class: "node", title: label, click: () => this.pick(stands, n.id, label),
        pointerenter: hover(true), pointerleave: hover(false), focus: hover(true), blur: hover(false),
      }, el("bdi", { class: "label" }, label), el("span", { class: "signs" }), el("span", { class: "count" }));
      el("li", {}, b);
      this.nodes[side].set(n.id, b);
    }
    const chosen = this.picked?.side === (side === "who" ? this.left : side) && this.picked.id === n.id;
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
      const shift = (order.indexOf(e.outcome) - 2) * 4;
      const y1 = middle(this.nodes.who.get(e.who)) + shift, y2 = middle(this.nodes.host.get(e.host)) + shift;
      const d = `M0 ${y1} C ${at.width * 0.5} ${y1} ${at.width * 0.5} ${y2} ${at.width - 7} ${y2}`;
      const tip = at.width - 1;
      const head = e.outcome === "denied" || e.outcome === "failed" ? `M${tip - 9} ${y2 - 4}l8 8m0-8l-8 8` : `M${tip - 7} ${y2 - 4}L${tip} ${y2}L${tip - 7} ${y2 + 4}`;
      const g = svg("g", { class: `edge ${e.outcome}${this.now - e.last < RECENT ? " recent" : ""}`, click: () => this.open(e.flow) },
        svg("path", { class: "reach", d }), svg("path", { class: "line", d, "stroke-width": (1.5 + 2.5 * Math.log(e.count + 1) / Math.log(most + 1)).toFixed(2) }),
        svg("path", { class: "head", d: head }),
        svg("title", {}, `${clean(this.left === "who" ? e.flow.process : e.flow.workload)} → ${clean(e.flow.host)}: ${count(e.count)} ${OUTCOMES[e.outcome].name.toLowerCase()}`));
      e.shape = g;
      return g;
    }));
    this.#dim(null);
  }

  /** dim leaves only the lines of a node bright; null: all of them. */
  #dim(node) {
    const n = node ?? this.picked;
    for (const e of this.edges?.values() ?? []) {
      // A workload that was chosen may stand there as its processes.
      const other = n && (n.side === "workload" ? e.flow.workload !== n.id : n.side === "who" && this.left !== "who" ? false : e[n.side] !== n.id);
      e.shape?.classList.toggle("dim", Boolean(other));
    }
  }
}
