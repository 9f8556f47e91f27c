/* A line chart as SVG: round ticks, a read-out by pointer or arrow keys, zoom by dragging, and a file to save.

   const chart = new Chart(parent, {title: "Loss", format: number, onZoom: (from, to) => …});
   chart.show({lines: [{name, color, dash, x: [], y: [], faint, dots, intervals}], marks: [], axis: "step", log: false}); */

import {element, shape} from "./dom.js";
import {count, duration} from "./format.js";
import {linearTicks, logTicks, tickText, timeTicks} from "./ticks.js";

const AXIS_TITLES = {step: "steps", tokens: "tokens", time: "time of training"};
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const TOP = 10,
  BOTTOM = 38,
  RIGHT = 14;

export const axisText = (axis, value) => (axis === "time" && value ? duration(value) : count(value));

/** A colour of the theme; an attribute with its value also works in a saved file. */
export const themeColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Chart {
  constructor(parent, {title, note = "", format, height = 220, wide = false, onZoom = () => {}, onReset = () => {}}) {
    Object.assign(this, {title, format, height, onZoom, onReset});
    this.data = {lines: [], marks: [], axis: "step", log: false};
    this.note = element("small", {}, note);
    this.plot = element("div", {class: "plot", tabindex: 0, role: "img"});
    this.readout = element("div", {class: "readout", hidden: true, "aria-live": "polite"});
    const save = element(
      "button",
      {type: "button", class: "quiet save", "aria-label": `Save SVG: ${title}`, onclick: () => this.save()},
      "Save SVG",
    );
    this.root = element(
      "article",
      {class: `chart card${wide ? " wide" : ""}`, "aria-label": title},
      element("div", {class: "head"}, element("h3", {}, `${title} `, this.note), save),
      this.plot,
      this.readout,
    );
    parent.append(this.root);
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.plot.addEventListener("pointermove", (event) => this.move(event));
    this.plot.addEventListener("pointerdown", (event) => this.startZoom(event));
    this.plot.addEventListener("pointerup", (event) => this.endZoom(event));
    this.plot.addEventListener("pointerleave", () => this.hideReadout());
    this.plot.addEventListener("blur", () => this.hideReadout());
    this.plot.addEventListener("dblclick", () => this.onReset());
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  show(data) {
    this.data = {marks: [], ...data};
    this.root.hidden = !this.data.lines.some((line) => line.x.length);
    this.draw();
  }

  /* ---- drawing */

  draw() {
    const width = this.plot.clientWidth;
    if (!width || this.root.hidden) return;
    this.scale(width);
    this.svg = shape("svg", {
      width,
      height: this.height,
      viewBox: `0 0 ${width} ${this.height}`,
      "font-family": FONT,
      "font-size": 12,
    });
    this.svg.append(this.grid(), ...this.data.lines.map((line) => this.line(line)), ...this.markers());
    this.cursor = shape("line", {
      y1: TOP,
      y2: this.height - BOTTOM,
      stroke: themeColor("muted"),
      "stroke-width": 1,
      visibility: "hidden",
    });
    this.band = shape("rect", {
      y: TOP,
      height: this.height - BOTTOM - TOP,
      fill: themeColor("accent"),
      "fill-opacity": 0.15,
      visibility: "hidden",
    });
    this.svg.append(this.band, this.cursor);
    this.plot.replaceChildren(this.svg);
    this.plot.setAttribute("aria-label", this.description());
    if (this.at !== undefined && !this.readout.hidden) this.read(this.at);
  }

  scale(width) {
    const {lines, log, axis} = this.data;
    const xs = lines.flatMap((line) => [line.x[0], line.x[line.x.length - 1]]).filter(Number.isFinite);
    let [low, high] = [Math.min(...xs), Math.max(...xs)];
    if (low === high) [low, high] = [low - Math.max(1, low * 0.05), high + Math.max(1, high * 0.05)];
    if (low > 0 && low < (high - low) * 0.1) low = 0;
    this.low = low;
    this.high = high;
    [this.bottom, this.top] = yRange(lines, log);
    this.isLog = log && this.bottom > 0;
    const rows = Math.max(3, Math.floor((this.height - TOP - BOTTOM) / 42));
    this.yTicks = this.isLog ? logTicks(this.bottom, this.top, rows) : linearTicks(this.bottom, this.top, rows);
    const texts = this.yTicks.map((tick) => this.tick(tick));
    this.left = 14 + Math.max(24, ...texts.map((text) => text.length * 7));
    this.width = width - this.left - RIGHT;
    const columns = Math.max(2, Math.floor(this.width / 90));
    this.xTicks = (axis === "time" ? timeTicks : linearTicks)(low, high, columns).filter(
      (tick) => axis === "time" || Number.isInteger(tick),
    );
  }

  tick(value) {
    return this.format.ticks ? this.format.ticks(value) : tickText(value, this.yTicks);
  }

  x(value) {
    return this.left + ((value - this.low) / (this.high - this.low)) * this.width;
  }

  y(value) {
    const place = this.isLog
      ? (Math.log(value) - Math.log(this.bottom)) / (Math.log(this.top) - Math.log(this.bottom))
      : (value - this.bottom) / (this.top - this.bottom);
    return this.height - BOTTOM - Math.min(1.2, Math.max(-0.2, place)) * (this.height - BOTTOM - TOP);
  }

  grid() {
    const [grid, muted] = [themeColor("grid"), themeColor("muted")];
    const end = this.left + this.width,
      floor = this.height - BOTTOM;
    const group = shape("g");
    for (const tick of this.yTicks) {
      const y = this.y(tick);
      group.append(
        shape("line", {x1: this.left, x2: end, y1: y, y2: y, stroke: grid}),
        shape("text", {x: this.left - 7, y: y + 4, "text-anchor": "end", fill: muted}, this.tick(tick)),
      );
    }
    for (const tick of this.xTicks) {
      const x = this.x(tick);
      const anchor = x > end - 14 ? "end" : "middle";
      group.append(
        shape("line", {x1: x, x2: x, y1: floor, y2: floor + 4, stroke: muted}),
        shape(
          "text",
          {x: anchor === "end" ? end : x, y: floor + 17, "text-anchor": anchor, fill: muted},
          axisText(this.data.axis, tick),
        ),
      );
    }
    group.append(
      shape("line", {x1: this.left, x2: end, y1: floor, y2: floor, stroke: muted}),
      shape(
        "text",
        {x: (this.left + end) / 2, y: this.height - 5, "text-anchor": "middle", fill: muted},
        AXIS_TITLES[this.data.axis],
      ),
    );
    return group;
  }

  line(line) {
    const group = shape("g", {
      fill: "none",
      stroke: line.color,
      "stroke-linejoin": "round",
      "stroke-width": line.faint ? 1 : 2,
      "stroke-opacity": line.faint ? 0.35 : 1,
    });
    const points = [];
    for (let index = 0; index < line.x.length; index++) {
      const value = line.y[index];
      if (value === null || (this.isLog && value <= 0)) continue;
      points.push([this.x(line.x[index]), this.y(value), index]);
    }
    if (!line.intervals || points.length > 1) {
      const path = points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
      group.append(shape("path", {d: path, "stroke-dasharray": line.dash || null}));
    }
    if (line.intervals) for (const [x, , index] of points) group.append(this.whisker(line, x, index));
    if (line.dots || points.length === 1) {
      const few = points.length <= 60;
      for (const [x, y] of few ? points : [points[points.length - 1]]) {
        group.append(shape("circle", {cx: x, cy: y, r: 3.2, fill: themeColor("surface"), "stroke-width": 1.8}));
      }
    }
    return group;
  }

  whisker(line, x, index) {
    const interval = line.intervals[index];
    if (!interval) return shape("g");
    const [low, high] = interval.map((end) => this.y(end));
    const d = `M${x} ${low}V${high}M${x - 4} ${low}h8M${x - 4} ${high}h8`;
    return shape("path", {d, "stroke-width": 1.4});
  }

  markers() {
    return this.data.marks
      .filter((mark) => mark.x >= this.low && mark.x <= this.high)
      .map((mark) => {
        const x = this.x(mark.x);
        return shape(
          "g",
          {fill: "none", stroke: mark.color, "stroke-width": 1.6},
          shape("title", {}, mark.text),
          shape("line", {
            x1: x,
            x2: x,
            y1: TOP + 10,
            y2: this.height - BOTTOM,
            "stroke-dasharray": "2 4",
            "stroke-width": 1,
          }),
          shape("path", {d: GLYPHS[mark.event](x, TOP + 4)}),
        );
      });
  }

  description() {
    const seen = this.data.lines.filter((line) => !line.faint && line.y.length);
    const last = seen.slice(0, 8).map((line) => `${line.name} ends at ${this.format(line.y[line.y.length - 1])}`);
    return `${this.title}: ${last.join(", ")}. Arrow keys read the values.`;
  }

  /* ---- reading and zooming */

  place(event) {
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    return this.low + Math.min(1, Math.max(0, (x - this.left) / this.width)) * (this.high - this.low);
  }

  move(event) {
    if (!this.svg) return;
    this.read(this.place(event));
    if (this.from === undefined) return;
    const [a, b] = [this.x(this.from), this.x(this.at)];
    for (const [name, value] of Object.entries({x: Math.min(a, b), width: Math.abs(a - b), visibility: "visible"}))
      this.band.setAttribute(name, value);
  }

  startZoom(event) {
    if (event.pointerType !== "mouse" || event.button) return;
    this.from = this.place(event);
    this.plot.setPointerCapture(event.pointerId);
  }

  endZoom(event) {
    const from = this.from;
    this.from = undefined;
    this.band?.setAttribute("visibility", "hidden");
    if (from === undefined) return;
    const to = this.place(event);
    if (Math.abs(this.x(to) - this.x(from)) > 8) this.onZoom(Math.min(from, to), Math.max(from, to));
  }

  key(event) {
    const span = this.high - this.low;
    const moves = {ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10};
    if (event.key in moves) this.read(this.step(moves[event.key]));
    else if (event.key === "Home") this.read(this.low);
    else if (event.key === "End") this.read(this.high);
    else if (event.key === "+")
      this.onZoom(
        Math.max(this.low, (this.at ?? this.high) - span / 4),
        Math.min(this.high, (this.at ?? this.high) + span / 4),
      );
    else if (event.key === "Escape" || event.key === "-") {
      this.hideReadout();
      this.onReset();
    } else return;
    event.preventDefault();
  }

  /** The place of another point, `moves` hundredths of the width away. */
  step(moves) {
    if (this.at === undefined) return this.high;
    return Math.min(this.high, Math.max(this.low, this.at + (moves * (this.high - this.low)) / 100));
  }

  /** Show the values at `place`. */
  read(place) {
    const margin = (this.high - this.low) * 0.03;
    const covers = (line) => line.x[0] - margin <= place && place <= line.x[line.x.length - 1] + margin;
    const found = this.data.lines
      .filter((line) => !line.faint && line.x.length && covers(line))
      .map((line) => {
        const index = nearest(line.x, place);
        return {line, x: line.x[index], y: line.y[index], interval: line.intervals?.[index]};
      });
    this.at = place;
    if (!found.length) return;
    const shown = found.reduce((best, one) => (Math.abs(one.x - place) < Math.abs(best.x - place) ? one : best)).x;
    const x = this.x(shown);
    for (const [name, value] of Object.entries({x1: x, x2: x, visibility: "visible"}))
      this.cursor.setAttribute(name, value);
    const rows = found.map(({line, y, interval}) =>
      element(
        "tr",
        {},
        element("td", {}, swatch(line)),
        element("td", {}, line.name),
        element("td", {}, this.format(y) + rangeText(interval, this.format)),
      ),
    );
    const marks = this.data.marks
      .filter((mark) => Math.abs(this.x(mark.x) - x) < 6)
      .slice(0, 3)
      .map((mark) => element("tr", {}, element("td", {}), element("td", {colspan: 2}, mark.text)));
    const caption = `${axisText(this.data.axis, shown)}${this.data.axis === "time" ? "" : ` ${AXIS_TITLES[this.data.axis]}`}`;
    this.readout.replaceChildren(
      element("table", {}, element("caption", {}, caption), element("tbody", {}, ...rows, ...marks)),
    );
    this.readout.hidden = false;
    const room = this.root.clientWidth - this.readout.offsetWidth;
    const left = this.plot.offsetLeft + x;
    this.readout.style.left = `${Math.max(4, Math.min(room - 4, left > room - 20 ? left - this.readout.offsetWidth - 14 : left + 14))}px`;
    this.readout.style.top = `${this.plot.offsetTop + TOP + 6}px`;
  }

  hideReadout() {
    this.readout.hidden = true;
    this.at = undefined;
    this.cursor?.setAttribute("visibility", "hidden");
  }

  /* ---- saving */

  /** The picture with its title and legend, which look the same in any program. */
  picture() {
    const lines = this.data.lines.filter((line) => !line.faint);
    const width = Number(this.svg.getAttribute("width"));
    const head = 34 + lines.length * 18;
    const text = themeColor("text");
    const body = shape("g", {transform: `translate(0 ${head})`}, ...[...this.svg.cloneNode(true).children]);
    for (const hidden of body.querySelectorAll("[visibility]")) hidden.remove();
    const legend = lines.flatMap((line, index) => [
      shape("line", {
        x1: 14,
        x2: 38,
        y1: 40 + index * 18,
        y2: 40 + index * 18,
        stroke: line.color,
        "stroke-width": 2,
        "stroke-dasharray": line.dash || null,
      }),
      shape("text", {x: 46, y: 44 + index * 18, fill: text}, line.name),
    ]);
    return shape(
      "svg",
      {
        xmlns: "http://www.w3.org/2000/svg",
        width,
        height: this.height + head,
        viewBox: `0 0 ${width} ${this.height + head}`,
        "font-family": FONT,
        "font-size": 12,
      },
      shape("rect", {width: "100%", height: "100%", fill: themeColor("surface")}),
      shape("text", {x: 14, y: 22, fill: text, "font-size": 15, "font-weight": 600}, this.title),
      ...legend,
      body,
    );
  }

  save() {
    const text = new XMLSerializer().serializeToString(this.picture());
    const url = URL.createObjectURL(new Blob([text], {type: "image/svg+xml"}));
    const name = this.title
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, "_")
      .replace(/^_|_$/g, "");
    element("a", {href: url, download: `${name}.svg`}).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

const GLYPHS = {
  skipped_step: (x, y) => `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`,
  rollback: (x, y) => `M${x + 5} ${y - 4}v5h-9m4 -4l-4 4l4 4`,
  resume: (x, y) => `M${x - 3} ${y - 5}l7 5l-7 5z`,
};

/** A short piece of a line, for legends. */
export function swatch(line) {
  return shape(
    "svg",
    {width: 26, height: 10, "aria-hidden": "true"},
    shape("line", {
      x1: 1,
      x2: 25,
      y1: 5,
      y2: 5,
      stroke: line.color,
      "stroke-width": 2.5,
      "stroke-dasharray": line.dash || null,
    }),
    line.dots
      ? shape("circle", {cx: 13, cy: 5, r: 3.2, fill: themeColor("surface"), stroke: line.color, "stroke-width": 1.8})
      : null,
  );
}

/** The glyph of an event, for legends. */
export function glyph(event, color) {
  return shape(
    "svg",
    {width: 16, height: 12, "aria-hidden": "true"},
    shape("path", {d: GLYPHS[event](8, 6), fill: "none", stroke: color, "stroke-width": 1.6}),
  );
}

/** `` (25.1–33.0%)``, as in the benchmark's reports; empty if there is no interval. */
export function rangeText(interval, format, unit = "") {
  if (!interval) return "";
  const [low, high] = interval.map(format);
  return low === high ? "" : ` (${low.replace(/%$/, "")}${interval[0] < 0 ? " to " : "–"}${high}${unit})`;
}

function yRange(lines, log) {
  let low = Infinity,
    high = -Infinity;
  for (const line of lines) {
    line.y.forEach((value, index) => {
      if (value === null || (log && value <= 0)) return;
      const [least, most] = line.intervals?.[index] ?? [value, value];
      low = Math.min(low, log && least <= 0 ? value : least);
      high = Math.max(high, most);
    });
  }
  if (!Number.isFinite(low)) return [0, 1];
  if (low === high)
    [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) * 0.1 || 1), high + (Math.abs(high) * 0.1 || 1)];
  if (log) return [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
  const margin = (high - low) * 0.06;
  return [low >= 0 && low - margin < 0 ? 0 : low - margin, high + margin];
}

/** The index of the value in ascending `values` that is nearest to `place`. */
function nearest(values, place) {
  let [low, high] = [0, values.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < place) low = middle + 1;
    else high = middle;
  }
  return low && place - values[low - 1] < values[low] - place ? low - 1 : low;
}
