// SPDX-License-Identifier: Apache-2.0

// The page: asks the daemon again and again, and shows what it says.

import { byId, clean, count, el, setText } from "./dom.js";
import { Model, OUTCOMES } from "./model.js";
import { FlowMap, SIDES } from "./map.js";
import { Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { open } from "./details.js";

const EVERY = 1500; // milliseconds between two questions
const STATUS_EVERY = 10000;
const LONGEST_WAIT = 15000;

const model = new Model();
const off = new Set(); // outcomes that are not shown
let picked = null;
let live = true;

const show = (f) => open(f, model.now);
const timeline = new Timeline(draw);
const table = new Table({ open: show });
const map = new FlowMap({ pick, open: show });
const filter = byId("filter");

const tiles = Object.fromEntries(Object.entries(OUTCOMES).map(([o, { name, sign }]) => {
  const number = el("span", { class: "large" }, "0");
  const button = el("button", { type: "button", class: "tile " + o, "aria-pressed": "true", click: () => { toggle(o); } },
    el("span", { class: "sign " + o, "aria-hidden": "true" }, sign), number, el("span", { class: "quiet" }, name));
  byId("tiles").append(button);
  return [o, { button, number }];
}));
const sums = Object.fromEntries(["processes", "hosts"].map((what) => {
  const number = el("span", { class: "large" }, "0");
  byId("tiles").append(el("div", { class: "tile" }, el("span", { class: "sign", "aria-hidden": "true" }, what === "hosts" ? "◎" : "▣"), number, el("span", { class: "quiet" }, what === "hosts" ? "Hosts" : "Processes")));
  return [what, number];
}));

function toggle(outcome) {
  if (!off.delete(outcome)) off.add(outcome);
  tiles[outcome].button.setAttribute("aria-pressed", String(!off.has(outcome)));
  draw();
}

function pick(side, id, label) {
  picked = picked?.side === side && picked.id === id ? null : { side, id, label };
  byId("picked").replaceChildren(...(picked ? [el("button", { type: "button", class: "plain", click: () => pick(side, id, label) },
    side === "who" ? "Process " : "Host ", el("bdi", { class: "strong" }, label), el("span", { class: "unseen" }, ", show all again"), el("span", { "aria-hidden": "true" }, " ✕"))] : []));
  draw();
}

/** draw shows what is known and asked for. */
function draw() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const span = model.since(timeline.from(model.now));
  const totals = { allowed: 0, proxied: 0, denied: 0, would: 0 };
  for (const f of span) if (!f.dns || f.outcome !== "allowed" && f.outcome !== "proxied") totals[f.outcome] += f.count;
  for (const [o, { number, button }] of Object.entries(tiles)) {
    setText(number, count(totals[o]));
    if (o === "would") button.hidden = totals.would === 0 && !off.has(o);
  }
  setText(sums.processes, count(new Set(span.map(SIDES.who)).size));
  setText(sums.hosts, count(new Set(span.map(SIDES.host)).size));
  const found = span.filter((f) => !off.has(f.outcome) && words.every((w) => f.text.includes(w)));
  timeline.draw(model);
  map.show(found, picked, model.now);
  table.show(picked ? found.filter((f) => SIDES[picked.side](f) === picked.id) : found, model.now);
}

let daemon = "", next = 0, since = "", failures = 0, timer = 0, asking = false;

async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(LONGEST_WAIT) });
  if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
  return answer.json();
}

/** ask takes what is new, and asks again after a while, as long as somebody looks. */
async function ask() {
  clearTimeout(timer);
  if (!live || document.hidden || asking) return;
  asking = true;
  let more = false;
  try {
    const first = !daemon;
    let a = await get("/ui/flows?" + new URLSearchParams({ after: next, ...(since && { since }) }));
    if (daemon && a.daemon !== daemon) {
      model.clear(); // another daemon counts anew
      next = 0;
      a = await get("/ui/flows");
    }
    daemon = a.daemon;
    next = a.next;
    since = a.now;
    more = a.more;
    model.add(a);
    failures = 0;
    setText(byId("trouble"), model.gone ? `${count(model.gone)} events were pushed out before this page asked for them` : model.left ? `${count(model.left)} older kinds of denials are not shown` : "");
    if (!first) speak(model.fresh);
    draw();
  } catch (e) {
    failures++;
    setText(byId("trouble"), "egressd does not answer: " + clean(e.message));
  }
  asking = false;
  timer = setTimeout(ask, more ? 0 : Math.min(EVERY * 2 ** failures, LONGEST_WAIT));
}

let spoken = 0;

/** speak tells who listens of new denials, now and then. */
function speak(fresh) {
  if (fresh.length === 0 || Date.now() - spoken < STATUS_EVERY) return;
  spoken = Date.now();
  const f = fresh[0];
  setText(byId("spoken"), `${OUTCOMES[f.outcome].name}: ${clean(f.process)} to ${clean(f.where)}${fresh.length > 1 ? `, and ${fresh.length - 1} more` : ""}`);
}

async function status() {
  if (!document.hidden) {
    try {
      const s = await get("/status");
      setText(byId("state"), s.ready ? "ready" : "not ready");
      byId("state").className = "pill " + (s.ready ? "good" : "bad");
      byId("mode").hidden = false;
      byId("mode").className = "pill " + (s.mode === "enforce" ? "" : "warn");
      setText(byId("mode"), s.mode);
      setText(byId("policy"), `${s.policy.hash ? "policy " + clean(s.policy.hash).slice(0, 8) : "no policy"} · ${clean(s.version)}`);
    } catch {
      setText(byId("state"), "no answer");
      byId("state").className = "pill bad";
    }
  }
  setTimeout(status, STATUS_EVERY);
}

byId("live").addEventListener("click", () => {
  live = !live;
  byId("live").setAttribute("aria-pressed", String(live));
  setText(byId("live-text"), live ? "Live" : "Paused");
  ask();
});
filter.addEventListener("input", draw);
document.addEventListener("visibilitychange", ask);
document.addEventListener("keydown", (e) => {
  if (byId("details").open || e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === "/" && !e.target.closest("input")) {
    e.preventDefault();
    filter.focus();
  } else if (e.key === "Escape" && (filter.value || picked)) {
    filter.value = "";
    if (picked) pick(picked.side, picked.id, picked.label); else draw();
  }
});

ask();
status();
