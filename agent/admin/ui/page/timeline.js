// SPDX-License-Identifier: Apache-2.0

// The timeline: how many flows ended how, by time.

import { byId, clock, count, el, setText, svg } from "./dom.js";
import { GRAIN, none, OUTCOMES } from "./model.js";

const MINUTE = 60e3;
const BARS = 72;
const HEIGHT = 100;

/** The spans of time that one may look at. */
const RANGES = [["5 min", 5 * MINUTE], ["1 h", 60 * MINUTE], ["24 h", 1440 * MINUTE], ["All", Infinity]];

export class Timeline {
  constructor(changed) {
    this.range = RANGES[1][1];
    for (const [name, span] of RANGES) {
      const input = el("input", { type: "radio", name: "range", value: name, change: () => { this.range = span; changed(); } });
      input.checked = span === this.range;
      byId("ranges").append(el("label", {}, input, el("span", {}, name)));
    }
    this.chart = svg("svg", { viewBox: `0 0 ${BARS * 10} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "chart" });
    this.axis = el("div", { class: "axis quiet", "aria-hidden": "true" });
    byId("when").append(this.chart, this.axis);
  }

  /** name is what the time that is shown is called. */
  get name() { return RANGES.find(([, span]) => span === this.range)[0]; }

  /** from is the earliest time to show. */
  from(now) { return this.range === Infinity ? 0 : now - this.range; }

  /** bars sums the grains up to as many bars as there are. */
  bars(model) {
    const end = Math.floor(model.now / GRAIN) + 1;
    let begin = this.range === Infinity ? Math.min(end - BARS, ...model.grains.keys()) : end - Math.ceil(this.range / GRAIN);
    const width = Math.max(1, Math.ceil((end - begin) / BARS));
    begin = end - width * BARS;
    const bars = Array.from({ length: BARS }, (_, i) => ({ at: (begin + i * width) * GRAIN, ...none() }));
    for (const [grain, sums] of model.grains) {
      const bar = bars[Math.floor((grain - begin) / width)];
      if (bar) for (const o of Object.keys(OUTCOMES)) bar[o] += sums[o];
    }
    return { bars, begin: begin * GRAIN, step: width * GRAIN };
  }

  draw(model) {
    const { bars, begin, step } = this.bars(model);
    const sum = (b) => Object.keys(OUTCOMES).reduce((n, o) => n + b[o], 0);
    const peak = Math.max(1, ...bars.map(sum));
    const total = none();
    this.chart.replaceChildren(...bars.map((bar, i) => {
      let y = HEIGHT;
      const parts = Object.keys(OUTCOMES).filter((o) => bar[o] > 0).map((o) => {
        total[o] += bar[o];
        const h = Math.max(3, bar[o] / peak * (HEIGHT - 6));
        y -= h;
        return svg("rect", { class: o, x: i * 10 + 1, y: Math.max(0, y), width: 8, height: h, rx: 1 });
      });
      const words = Object.entries(OUTCOMES).filter(([o]) => bar[o] > 0).map(([o, { name }]) => `${count(bar[o])} ${name.toLowerCase()}`);
      return svg("g", {}, svg("rect", { class: "room", x: i * 10, y: 0, width: 10, height: HEIGHT }), ...parts,
        svg("title", {}, `${clock(bar.at, model.now)}, ${step / 1000} s: ${words.join(", ") || "nothing"}`));
    }));
    const words = Object.entries(OUTCOMES).filter(([o]) => total[o] > 0).map(([o, { name }]) => `${count(total[o])} ${name.toLowerCase()}`);
    this.chart.setAttribute("aria-label", `Flows from ${clock(begin, model.now)} to ${clock(model.now, model.now)}: ${words.join(", ") || "none"}.`);
    setText(byId("when-peak"), sum(total) ? `at most ${count(peak)} in ${step < MINUTE ? step / 1000 + " s" : Math.round(step / MINUTE) + " min"}` : "nothing in this time");
    const times = [begin, (begin + model.now) / 2, model.now];
    this.axis.replaceChildren(...times.map((t, i) => el("span", {}, i === 2 ? "now" : clock(t, model.now))));
  }
}
