// SPDX-License-Identifier: Apache-2.0

// One flow in full: what was decided, why the policy in force decides so, and the
// ServiceEntry that would allow it.

import { byId, bytes, clean, clock, count, el, setText } from "./dom.js";
import { OUTCOMES, passed, ruleText } from "./model.js";
import { protocol } from "./table.js";

const dialog = byId("details");

/** questionOf is what to ask "explain" about a flow; note says what was assumed. */
function questionOf(f) {
  const q = new URLSearchParams();
  let note = "";
  const host = f.host.includes(":") ? `[${f.host}]` : f.host;
  let port = f.port;
  if (!port) {
    port = 443;
    note = "The name was refused before a port was dialled: this is what holds for port 443.";
  }
  if (f.method) {
    q.set("target", `http://${host}:${port}${f.path || "/"}`);
    q.set("method", f.method);
  } else {
    q.set("target", `${host}:${port}${f.proto === "udp" ? "/udp" : ""}`);
  }
  if (f.workload.includes("/")) q.set("workload", f.workload);
  return { query: q.toString(), note };
}

/** copy puts text on the clipboard, which exists on loopback and with TLS alone. */
async function copy(text, shown, said, then) {
  try {
    await navigator.clipboard.writeText(text);
    setText(said, "Copied. " + then);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(shown);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    setText(said, "It is selected; copy it with Ctrl+C.");
  }
}

function suggestion(yaml) {
  // Only lines and columns that can be seen: what is copied is what is read.
  const text = yaml.split("\n").map(clean).join("\n");
  // Of an object that names the host already, only the ports are said that it lacks.
  const [what, then] = text.includes("kind: ServiceEntry") ? ["ServiceEntry", "Put it into a file of --config; egressd takes it up by itself."]
    : ["port", "Add it where its first line says; egressd takes it up by itself."];
  const shown = el("pre", { tabindex: "0", "aria-label": what }, text);
  const said = el("span", { class: "quiet", role: "status" });
  const button = el("button", { type: "button", class: "main", id: "copy", click: () => copy(text, shown, said, then) }, "Copy the " + what);
  return el("section", {}, el("h3", {}, "What allows this"),
    el("p", { class: "quiet" }, "Read it first: it allows what a program tried, which may be more than it should."),
    shown, el("div", { class: "bar" }, button, said));
}

function facts(f, now) {
  const list = [
    ["Workload", f.workload], ["Process", f.process], ["Address", f.address], ["Speaks", protocol(f)],
    ["Decided by", f.layer], ["Reason", f.reason], [passed(f) || f.outcome === "failed" ? "Rule" : "Nearest rule", ruleText(f.rule)],
    ["Detail", f.detail], ["May be any of", f.names.length > 1 ? f.names.join(", ") : ""],
    ["Request", (f.outcome === "denied" || f.outcome === "would") && f.method ? `${f.method} ${f.path}` : ""],
    ["Times", count(f.count)], ["Sent, received", f.sent + f.received ? `${bytes(f.sent)}, ${bytes(f.received)}` : ""],
    ["First, last", `${clock(f.first, now)}, ${clock(f.last, now)}`],
  ];
  return el("dl", {}, ...list.filter(([, v]) => v).map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, el("bdi", {}, clean(v))))));
}

/** allowedNow says why something was denied that the policy allows. */
function allowedNow(f) {
  if (f.outcome === "failed") return `The policy allows this. What failed was the way to the destination: ${clean(f.reason)}.`;
  return "The policy in force now allows this: it did not then, or the flow began in another way than its port says.";
}

async function explained(f, box) {
  const { query, note } = questionOf(f);
  let parts;
  try {
    const answer = await fetch("/explain?" + query, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const x = await answer.json();
    parts = [el("h3", {}, "Why, by the policy in force now"), note ? el("p", { class: "note" }, note) : null];
    if (x.allowed && !passed(f) && f.outcome !== "would") parts.push(el("p", { class: "note" }, allowedNow(f)));
    parts.push(el("ol", { class: "steps" }, ...x.steps.map((s) => {
      const cut = s.indexOf(": ");
      return cut > 0 && cut < 12 ? el("li", {}, el("b", {}, clean(s.slice(0, cut))), " " + clean(s.slice(cut + 2))) : el("li", {}, clean(s));
    })));
    if (x.suggestion) parts.push(suggestion(note ? "# The name was refused before a port was dialled: 443 is a guess.\n" + x.suggestion : x.suggestion));
    else if (f.outcome === "denied" && !x.allowed) parts.push(el("p", { class: "note" }, `No ServiceEntry allows this: the reason is ${x.reason}.`));
  } catch (e) {
    parts = [el("h3", {}, "Why"), el("p", { class: "note" }, "This cannot be explained: ", el("bdi", {}, clean(e.message)))];
  }
  box.removeAttribute("aria-busy");
  box.replaceChildren(...parts.filter(Boolean));
}

/** open shows a flow. The dialog gives the focus back when it is closed. */
export function open(f, now) {
  const o = OUTCOMES[f.outcome];
  // Many kinds in one have no destination; a visitor of a Gateway is not on the way out.
  const asks = !f.rest && f.layer !== "ingress";
  const box = el("section", { "aria-busy": "true", "aria-live": "polite" }, el("p", { class: "quiet" }, "Asking egressd…"));
  dialog.replaceChildren(
    el("div", { class: "bar" }, el("span", { class: "badge " + f.outcome }, el("span", { "aria-hidden": "true" }, o.sign), " " + o.name),
      el("span", { class: "grow" }), el("button", { type: "button", class: "plain", click: () => dialog.close() }, "Close")),
    el("h2", { id: "details-title" }, el("bdi", {}, clean(f.process)), el("span", { class: "quiet" }, " to "), el("bdi", { class: "mono" }, clean(f.where))),
    el("p", { class: "quiet" }, `${f.rest ? "Many kinds of flows were" : "It was"} ${o.says}.`),
    facts(f, now), asks ? box : "",
    f.samples.length ? el("section", {}, el("h3", {}, "Last requests"), el("ul", { class: "steps" }, ...f.samples.map((s) => el("li", { class: "mono" }, el("bdi", {}, clean(s.text)), el("span", { class: "quiet" }, " " + clock(s.at, now)))))) : "",
  );
  if (!dialog.open) dialog.showModal();
  if (asks) explained(f, box);
}

// A click beside it closes it, as Escape does.
dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
