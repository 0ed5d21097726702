// SPDX-License-Identifier: Apache-2.0

// The page: asks the daemon again and again, and shows what it says.

import { byId, clean, clock, count, el, setText } from "./dom.js";
import { Model, none, OUTCOMES, passed } from "./model.js";
import { FlowMap, NAMES, SIDES } from "./map.js";
import { Table } from "./table.js";
import { Timeline } from "./timeline.js";
import { open } from "./details.js";

const EVERY = 1500; // milliseconds between two questions
const STATUS_EVERY = 10000;
const PATIENCE = 15000; // for an answer
const LONGEST_WAIT = 6000; // after questions without an answer

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
    NAMES[side] + " ", el("bdi", { class: "strong" }, label), el("span", { class: "unseen" }, ", show all again"), el("span", { "aria-hidden": "true" }, " ✕"))] : []));
  draw();
}

/** draw shows what is known and asked for. */
function draw() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const span = model.since(timeline.from(model.now));
  const totals = none();
  for (const f of span) if (!f.dns || !passed(f)) totals[f.outcome] += f.count;
  for (const [o, { number, button }] of Object.entries(tiles)) {
    setText(number, count(totals[o]));
    if (o === "would" || o === "failed") button.hidden = totals[o] === 0 && !off.has(o);
  }
  setText(sums.processes, count(new Set(span.map(SIDES.who)).size));
  setText(sums.hosts, count(new Set(span.map(SIDES.host)).size));
  const found = span.filter((f) => !off.has(f.outcome) && words.every((w) => f.text.includes(w)));
  timeline.draw(model);
  const why = nothing(span.length);
  map.show(found, picked, model.now, why);
  table.show(picked ? found.filter((f) => SIDES[picked.side](f) === picked.id) : found, model.now, why);
}

/** nothing says why there is nothing to see, and what to do. */
function nothing(inTime) {
  if (!daemon) return "Asking egressd…";
  if (model.flows.size === 0) return "Nothing was decided yet. What workloads of this node try to reach appears here as it happens.";
  if (inTime === 0) return `Nothing in the last ${timeline.name}: choose a longer time.`;
  return filter.value || picked ? "Nothing matches the filter. Esc clears it." : "Nothing that is to be shown: the buttons at the top choose which outcomes are.";
}

/** silent says that there was no answer. What is shown stays: it is of before. */
function silent(e) {
  const last = since ? Date.parse(since) : 0;
  setText(byId("trouble"), last ? `egressd has not answered since ${clock(last, last)}.` : "egressd does not answer.");
  setText(byId("trouble-more"), `${last ? "What is shown is of then. " : ""}This page asks again by itself; "systemctl status egressd" or the log says more. (${clean(e.message)})`);
  byId("again").hidden = false;
  answering(false);
}

/** answersAgain takes back what silent said. */
function answersAgain() {
  failures = 0;
  if (document.activeElement === byId("again")) byId("live").focus();
  setText(byId("spoken"), "egressd answers again.");
  status();
}

let daemon = "", anew = 0, next = 0, since = "", failures = 0, timer = 0, asking = false;

async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE) });
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
      anew = model.now;
      a = await get("/ui/flows");
    }
    daemon = a.daemon;
    next = a.next;
    since = a.now;
    more = a.more;
    model.add(a);
    if (failures > 0) answersAgain();
    setText(byId("trouble"), model.gone ? `${count(model.gone)} events were pushed out before this page asked for them: numbers are too low.` : model.left ? `${count(model.left)} older kinds of denials are not shown.` : "");
    setText(byId("trouble-more"), anew && failures === 0 ? `egressd was started again at ${clock(anew, model.now)}; what it decided before is not shown.` : "");
    byId("again").hidden = true;
    if (!first) speak(model.fresh);
    draw();
  } catch (e) {
    failures++;
    silent(e);
  }
  byId("notice").hidden = !byId("notice").querySelector("p").textContent.trim();
  byId("notice").classList.toggle("bad", failures > 0);
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

let statusTimer = 0;

/** answering shows whether the daemon is there at all. */
function answering(yes) {
  byId("live").classList.toggle("stale", !yes);
  if (yes) return;
  setText(byId("state"), "no answer");
  byId("state").className = "pill bad";
}

async function status() {
  clearTimeout(statusTimer);
  if (!document.hidden) {
    try {
      const s = await get("/status");
      setText(byId("state"), s.ready ? "ready" : "not ready");
      byId("state").className = "pill " + (s.ready ? "good" : "bad");
      byId("mode").hidden = false;
      byId("mode").className = "pill " + (s.mode === "enforce" ? "" : "warn");
      setText(byId("mode"), s.mode);
      setText(byId("policy"), `${s.policy.hash ? "policy " + clean(s.policy.hash).slice(0, 8) : "no policy"} · ${clean(s.version)}`);
      answering(true);
    } catch {
      answering(false);
    }
  }
  statusTimer = setTimeout(status, STATUS_EVERY);
}

byId("live").addEventListener("click", () => {
  live = !live;
  byId("live").setAttribute("aria-pressed", String(live));
  setText(byId("live-text"), live ? "Live" : "Paused");
  ask();
});
byId("again").addEventListener("click", ask);
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
