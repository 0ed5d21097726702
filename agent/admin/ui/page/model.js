// SPDX-License-Identifier: Apache-2.0

// What the page knows: events summed up to flows, and counted by time.

/** The outcomes, in their order: how they are called, and by which sign they are known. */
export const OUTCOMES = {
  allowed: { name: "Direct", sign: "✓", says: "allowed, straight to its destination" },
  proxied: { name: "Proxied", sign: "⇄", says: "allowed, through egressd's proxy" },
  denied: { name: "Denied", sign: "✕", says: "denied" },
  would: { name: "Would be denied", sign: "!", says: "let pass by the audit mode, denied otherwise" },
  failed: { name: "Failed", sign: "↯", says: "allowed, but its destination could not be reached, or did not answer as it should" },
};

/** A count for each outcome, to begin with. */
export const none = () => Object.fromEntries(Object.keys(OUTCOMES).map((o) => [o, 0]));

/** passed says whether a flow got through, by the policy and not by the audit mode. */
export const passed = (f) => f.outcome === "allowed" || f.outcome === "proxied";

/** Milliseconds that are counted together. */
export const GRAIN = 5000;

const MOST_FLOWS = 5000;
const MOST_GRAINS = 50000;
const SAMPLES = 6;

/** outcomeOf is how a flow ended. */
function outcomeOf(e) {
  if (e.wouldDeny) return "would";
  // The policy has no part in these: see REASONS.md.
  if (/^(upstream-|no-healthy-upstream$)/.test(e.reason ?? "")) return "failed";
  if (!e.allowed) return "denied";
  return e.verdict === "proxy" ? "proxied" : "allowed";
}

/** split takes ADDRESS:PORT apart. */
function split(at) {
  const cut = (at ?? "").lastIndexOf(":");
  if (cut < 0) return ["", 0];
  return [at.slice(0, cut).replace(/^\[(.*)\]$/, "$1"), Number(at.slice(cut + 1))];
}

/** describe is the flow that an event is of, without its numbers. */
function describe(e) {
  const [address, port] = split(e.dst);
  const asked = e.kind === "query"; // dst is the server's then
  const command = e.process?.command ?? "";
  const f = {
    outcome: outcomeOf(e),
    layer: e.layer,
    kind: e.kind,
    dns: asked,
    workload: e.workload || (e.layer === "ingress" ? "gateway" : "unknown"),
    process: command || (e.layer === "ingress" ? "visitors" : e.interface ? "if " + e.interface : e.process?.pid ? "pid " + e.process.pid : "?"),
    name: e.name ?? "",
    names: e.names ?? [],
    address: asked ? "" : address,
    port: asked ? 0 : port,
    proto: e.proto ?? "",
    reason: e.reason ?? "",
    rule: e.rule,
    detail: e.detail ?? "",
    method: e.method ?? "",
    path: e.path ?? "",
    rest: !e.name && !e.dst,
  };
  f.host = f.name || f.address || "several destinations";
  f.where = f.host.includes(":") ? "[" + f.host + "]" : f.host;
  if (f.port) f.where += ":" + f.port;
  return f;
}

function identity(f) {
  const parts = [f.outcome, f.layer, f.dns, f.workload, f.process, f.host, f.port, f.proto, f.reason];
  if (f.outcome === "denied" || f.outcome === "would") parts.push(f.kind, f.address, f.names.join(" "), f.method, f.path, f.detail);
  return JSON.stringify(parts);
}

/** ruleText names a rule as the command line does. */
export function ruleText(r) {
  if (!r) return "";
  return `${r.kind} ${r.namespace ? r.namespace + "/" : ""}${r.name}${r.file ? ` (${r.file}${r.line ? ":" + r.line : ""})` : ""}`;
}

export class Model {
  constructor() { this.clear(); }

  /** clear forgets everything, as for another daemon. */
  clear() {
    this.flows = new Map();
    this.grains = new Map();
    this.now = Date.now();
    this.gone = 0;
    this.left = 0;
    this.fresh = [];
  }

  /** add takes an answer of the daemon. fresh are then the denials that are new. */
  add(answer) {
    this.now = Date.parse(answer.now);
    this.gone += answer.gone;
    this.left = Math.max(this.left, answer.left);
    this.fresh = [];
    for (const e of answer.events) this.#event(e);
    // The newest come first; the table of them has each kind once, with its count.
    for (const e of answer.denials.reverse()) this.#denial(e);
    this.#forget();
  }

  #event(e) {
    if (e.kind === "lost" || e.kind === "mirror" || e.kind === "spoken") return;
    const denied = (!e.allowed || e.wouldDeny) && e.kind !== "close";
    if (denied) {
      this.#tick(Date.parse(e.time), outcomeOf(e), e.more || 1);
      return;
    }
    // Of a proxied HTTP connection its requests tell, and have the name.
    if (!e.allowed || e.proto === "http" && e.kind !== "request") return;
    const at = Date.parse(e.time);
    const f = this.#flow(describe(e), at);
    f.last = Math.max(f.last, at);
    f.sent += e.bytesSent ?? 0;
    f.received += e.bytesReceived ?? 0;
    if (e.kind === "close" && f.count > 0) return;
    f.count++;
    if (e.rule) f.rule = e.rule;
    if (e.method) {
      f.samples.unshift({ at, text: `${e.method} ${e.path ?? ""} → ${e.status ?? ""}` });
      f.samples.length = Math.min(f.samples.length, SAMPLES);
    }
    if (!f.dns) this.#tick(at, f.outcome, 1);
  }

  #denial(e) {
    const at = Date.parse(e.time);
    const d = describe(e);
    const known = this.flows.has(identity(d));
    const f = this.#flow(d, e.first ? Date.parse(e.first) : at);
    f.last = Math.max(f.last, at);
    f.count = Math.max(f.count, e.count ?? 1);
    if (!known) this.fresh.push(f);
  }

  #flow(d, at) {
    const id = identity(d);
    let f = this.flows.get(id);
    if (!f) {
      f = Object.assign(d, { id, first: at, last: at, count: 0, sent: 0, received: 0, samples: [] });
      f.text = [OUTCOMES[f.outcome].name, f.outcome, f.workload, f.process, f.where, f.name, ...f.names, f.address,
        f.proto, f.dns ? "dns" : "", f.layer, f.reason, f.method, f.path, ruleText(f.rule)].join(" ").toLowerCase();
      this.flows.set(id, f);
    }
    return f;
  }

  #tick(at, outcome, n) {
    const grain = Math.floor(at / GRAIN);
    let sums = this.grains.get(grain);
    if (!sums) this.grains.set(grain, sums = none());
    sums[outcome] += n;
  }

  /** forget keeps what the page has in bounds: who floods it pushes out what is old. */
  #forget() {
    for (const grain of this.grains.keys()) {
      if (this.grains.size <= MOST_GRAINS) break;
      this.grains.delete(grain);
    }
    if (this.flows.size <= MOST_FLOWS) return;
    const old = [...this.flows.values()].sort((a, b) => a.last - b.last);
    for (const f of old.slice(0, this.flows.size - MOST_FLOWS * 0.9)) this.flows.delete(f.id);
  }

  /** since are the flows that were seen since a time. */
  since(from) { return [...this.flows.values()].filter((f) => f.last >= from); }
}
