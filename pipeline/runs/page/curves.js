/* The charts of a run's log, laid over one another for the chosen runs. */

import {Chart, glyph, swatch, themeColor} from "./chart.js";
import {byId, element} from "./dom.js";
import {bytes, count, number, percent, title} from "./format.js";
import {lookOf, state} from "./state.js";

const learningRate = (value) => (value ? value.toExponential(2).replace("e-", "e−") : "0");
export const asPercent = Object.assign((value) => percent(value), {
  ticks: (value) => `${Number((value * 100).toPrecision(4))}%`,
});
const GIGABYTE = 2 ** 30;
const memory = Object.assign((value) => bytes(value * GIGABYTE), {
  ticks: (value) => `${Number(value.toPrecision(4))} GB`,
});

const METRICS = [
  {
    metric: "val_bits_per_byte",
    table: "validation",
    title: "Bits per byte",
    note: "validation",
    format: number,
    canLog: true,
  },
  {metric: "train_learning_rate", title: "Learning rate", format: learningRate},
  {
    metric: "train_grad_norm",
    title: "Gradient norm",
    note: "before clipping",
    format: number,
    smooth: true,
    canLog: true,
  },
  {metric: "speed_tokens_per_second", title: "Tokens per second", format: count, smooth: true},
  {
    metric: "mfu",
    title: "MFU",
    note: "share of the device's peak that the model uses",
    format: asPercent,
    smooth: true,
  },
  {metric: "speed_memory_bytes", title: "Memory", note: "peak so far", format: memory, scale: 1 / GIGABYTE},
];
const EVENT_NAMES = {skipped_step: "skipped step", rollback: "rollback", resume: "resumed"};

let loss, charts;

export function makeCharts(onZoom, onReset) {
  const options = {onZoom, onReset};
  loss = new Chart(byId("charts"), {
    title: "Loss",
    note: "nats per token",
    format: number,
    height: 340,
    wide: true,
    ...options,
  });
  charts = METRICS.map(
    (metric) => new Chart(byId("charts"), {title: metric.title, note: metric.note, format: metric.format, ...options}),
  );
}

/** Draw the series of the chosen runs: name → what the server sent. */
export function drawCharts(series) {
  const runs = state.chosen.filter((name) => series.has(name)).map((name) => [name, series.get(name)]);
  const alone = runs.length === 1;
  const lines = runs.flatMap(([name, data]) => lossLines(name, data, alone));
  const marks = runs.flatMap(([name, data]) =>
    data.marks.map((mark) => ({
      ...mark,
      color: alone ? themeColor("danger") : lookOf(name).color,
      text: markText(mark),
    })),
  );
  loss.show({lines, marks, axis: state.x, log: state.log});
  METRICS.forEach(({metric, table = "training", smooth, scale = 1, canLog}, index) => {
    const found = runs.flatMap(([name, data]) =>
      metricLines(name, data[table][metric], {smooth, scale, dots: table === "validation"}),
    );
    charts[index].show({lines: found, axis: state.x, log: state.log && Boolean(canLog)});
  });
  drawLegend(lines, marks);
}

function lossLines(name, data, alone) {
  const look = lookOf(name);
  const label = (kind) => (alone ? kind : `${title(name)} · ${kind}`);
  const lines = curve(label("training"), data.training.train_loss, look);
  const validation = data.validation.val_loss;
  if (validation)
    lines.push({
      name: label("validation"),
      ...look,
      ...(alone && {color: themeColor("series-2")}),
      ...validation,
      dots: true,
    });
  return lines;
}

function metricLines(name, found, {smooth, scale, dots}) {
  if (!found) return [];
  return smooth
    ? curve(title(name), found, lookOf(name))
    : [{name: title(name), ...lookOf(name), x: found.x, y: found.y.map((value) => value * scale), dots}];
}

/** A line, or with smoothing the smooth line above the faint one. */
function curve(name, found, look) {
  if (!found) return [];
  if (!found.smooth) return [{name, ...look, x: found.x, y: found.y}];
  return [
    {name, ...look, x: found.x, y: found.y, faint: true},
    {name, ...look, ...found.smooth},
  ];
}

export function markText(mark) {
  const from = mark.from_step === undefined ? "" : ` from step ${count(mark.from_step)} to ${count(mark.step)}`;
  return `${EVENT_NAMES[mark.event]}${from || ` at step ${count(mark.step)}`}${mark.reason ? `: ${mark.reason}` : ""}`;
}

function drawLegend(lines, marks) {
  const items = lines.filter((line) => !line.faint).map((line) => element("li", {}, swatch(line), line.name));
  const events = [...new Set(marks.map((mark) => mark.event))];
  items.push(...events.map((event) => element("li", {}, glyph(event, themeColor("text")), EVENT_NAMES[event])));
  byId("legend").replaceChildren(...items);
}
