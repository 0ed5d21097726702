// SPDX-License-Identifier: Apache-2.0

// Making elements. What workloads wrote becomes text nodes, never markup, and no
// attribute that leads anywhere is made of it.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

/** el makes an HTML element: functions among the properties listen to events. */
export const el = (name, props, ...children) => fill(document.createElement(name), props, children);

/** svg makes an SVG element. */
export const svg = (name, props, ...children) => fill(document.createElementNS(SVG, name), props, children);

export const byId = (id) => document.getElementById(id);

/** setText changes a node only when it says something else: the page is read aloud. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const LONGEST = 300;

/**
 * clean writes out what cannot be seen, or changes how the text around it is read:
 * control characters, and those of Unicode for direction, joining and other formats.
 */
export function clean(text) {
  const t = String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu,
    (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
  return t.length > LONGEST ? t.slice(0, LONGEST) + "…" : t;
}

const bytesUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

/** bytes writes an amount of bytes. */
export function bytes(n) {
  let i = 0;
  for (; n >= 1024 && i < bytesUnits.length - 1; i++) n /= 1024;
  return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + bytesUnits[i];
}

export const count = (n) => n.toLocaleString("en");

/** clock is a time of day, of today, or with its date. */
export function clock(ms, now) {
  const d = new Date(ms);
  const time = d.toLocaleTimeString("en-GB");
  return now - ms < 12 * 3600e3 ? time : d.toLocaleDateString("en-CA") + " " + time;
}

/** ago says how long ago something was. */
export function ago(ms, now) {
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 2) return "now";
  if (s < 60) return s + " s ago";
  if (s < 3600) return Math.floor(s / 60) + " min ago";
  if (s < 86400) return Math.floor(s / 3600) + " h ago";
  return Math.floor(s / 86400) + " d ago";
}
