// SPDX-License-Identifier: Apache-2.0

// The table of flows. Rows stay the same elements while their numbers change, and do not
// move while somebody is among them.

import { ago, byId, bytes, clean, clock, count, el, setText } from "./dom.js";
import { OUTCOMES } from "./model.js";

const STEP = 100;
const order = Object.keys(OUTCOMES);
const text = (a, b) => a.localeCompare(b);

const COLUMNS = [
  { id: "outcome", name: "Outcome", sort: (a, b) => order.indexOf(b.outcome) - order.indexOf(a.outcome) },
  { id: "who", name: "Workload, process", sort: (a, b) => text(a.workload, b.workload) || text(a.process, b.process) },
  { id: "where", name: "Destination", sort: (a, b) => text(a.host, b.host) || a.port - b.port },
  { id: "why", name: "Reason", sort: (a, b) => text(a.reason, b.reason) },
  { id: "count", name: "Times", sort: (a, b) => b.count - a.count, number: true },
  { id: "bytes", name: "Sent, received", sort: (a, b) => b.sent + b.received - a.sent - a.received, number: true },
  { id: "last", name: "Last", sort: (a, b) => b.last - a.last, number: true },
];

/** protocol says what a flow spoke, as far as it is known. */
export const protocol = (f) => f.dns ? "dns question" : f.proto;

export class Table {
  constructor({ open }) {
    this.open = open;
    this.rows = new Map();
    this.sort = COLUMNS.at(-1);
    this.back = false;
    this.shown = STEP;
    this.body = el("tbody");
    this.heads = COLUMNS.map((c) => el("th", { scope: "col", class: c.number ? "number" : null },
      el("button", { type: "button", click: () => this.#by(c) }, c.name)));
    this.more = el("button", { type: "button", class: "plain", click: () => { this.shown += STEP; this.draw(); } });
    this.empty = el("p", { class: "empty" });
    const table = el("table", {}, el("caption", { class: "unseen" }, "Flows; each row's first button explains it"), el("thead", {}, el("tr", {}, ...this.heads)), this.body);
    byId("table").append(el("div", { class: "scroll", role: "region", "aria-label": "Table of flows", tabindex: "0" }, table), this.empty, this.more);
    this.#mark();
  }

  #by(column) {
    this.back = column === this.sort && !this.back;
    this.sort = column;
    this.#mark();
    this.draw(true);
  }

  #mark() {
    for (const [i, c] of COLUMNS.entries()) {
      if (c === this.sort) this.heads[i].setAttribute("aria-sort", this.back ? "ascending" : "descending");
      else this.heads[i].removeAttribute("aria-sort");
    }
  }

  /** show lists flows; why says why there are none. */
  show(flows, now, why) {
    this.flows = flows;
    this.now = now;
    setText(this.empty, why);
    this.draw();
  }

  draw(anew = false) {
    const sorted = this.flows.toSorted((a, b) => (this.back ? -1 : 1) * this.sort.sort(a, b) || b.last - a.last || (a.id < b.id ? -1 : 1));
    // Who reads or reaches for a row finds it where it was; what is new comes first.
    if (!anew && (this.body.matches(":hover") || this.body.contains(document.activeElement))) {
      const places = new Map([...this.body.children].map((row, i) => [row.flow.id, i]));
      sorted.sort((a, b) => (places.get(a.id) ?? -1) - (places.get(b.id) ?? -1));
    }
    const list = sorted.slice(0, this.shown);
    const active = document.activeElement;
    const kept = new Set();
    let at = this.body.firstChild;
    for (const f of list) {
      const row = this.#row(f);
      kept.add(row);
      if (at !== row) this.body.insertBefore(row, at); else at = at.nextSibling;
    }
    for (const [id, row] of this.rows) if (!kept.has(row)) { row.remove(); this.rows.delete(id); }
    if (active !== document.activeElement && active?.isConnected) active.focus({ preventScroll: true });
    this.empty.hidden = list.length > 0;
    this.body.parentNode.hidden = list.length === 0;
    this.more.hidden = sorted.length <= list.length;
    setText(this.more, `Show more (${count(sorted.length - list.length)})`);
    setText(byId("found"), sorted.length === 1 ? "1 flow" : count(sorted.length) + " flows");
  }

  #row(f) {
    let row = this.rows.get(f.id);
    if (!row) {
      row = this.#make(f);
      this.rows.set(f.id, row);
    }
    row.flow = f;
    const [times, amount, last] = row.numbers;
    setText(times, count(f.count));
    setText(amount, f.sent + f.received ? `${bytes(f.sent)}, ${bytes(f.received)}` : "");
    setText(last, ago(f.last, this.now));
    return row;
  }

  #make(f) {
    const o = OUTCOMES[f.outcome];
    const where = clean(f.where);
    const request = f.method ? clean(`${f.method} ${f.path}`) : "";
    const number = () => el("td", { class: "number" });
    const row = el("tr", { class: f.outcome, click: (e) => { if (!e.target.closest("button") && getSelection().isCollapsed) this.open(row.flow); } },
      el("td", {}, el("button", { type: "button", class: "badge " + f.outcome, "aria-haspopup": "dialog", "aria-label": `${o.name}: explain ${clean(f.process)} to ${where}`, click: () => this.open(row.flow) },
        el("span", { "aria-hidden": "true" }, o.sign), " " + o.name)),
      el("td", {}, el("bdi", { class: "strong" }, clean(f.process)), el("bdi", { class: "under" }, clean(f.workload))),
      el("td", {}, el("bdi", { class: "strong mono" }, where), " ", el("span", { class: "chip" }, protocol(f)),
        (f.outcome === "denied" || f.outcome === "would") && request ? el("bdi", { class: "under mono" }, request) : f.name && f.address ? el("bdi", { class: "under mono" }, f.address) : null),
      el("td", {}, el("span", { class: "mono" }, f.reason), f.rule ? el("bdi", { class: "under" }, clean(`${f.rule.kind} ${f.rule.name}`)) : null),
      number(), number(), number());
    row.numbers = [...row.children].slice(-3);
    row.numbers[2].title = clock(f.last, this.now);
    return row;
  }
}
