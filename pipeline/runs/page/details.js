/* Below the charts: samples, events, checkpoints with scores, differences of the configurations. */

import {Chart, rangeText, swatch} from "./chart.js";
import {asPercent, markText} from "./curves.js";
import {byId, element, row} from "./dom.js";
import {ago, bytes, count, number, title} from "./format.js";
import {lookOf, state} from "./state.js";

const LARGEST_PERPLEXITY = 100_000;
let details = {runs: [], config: {columns: [], rows: []}};
let wantedStep = null; // null: the newest
const scoreCharts = new Map();

export function drawDetails(found) {
  details = found;
  drawPrompts();
  drawSamples();
  drawCheckpoints();
  drawConfig();
}

/* ---- samples */

const samplesOf = (prompt) =>
  details.runs
    .map((run) => [run.name, run.samples.find((sample) => sample.prompt === prompt)?.texts ?? []])
    .filter(([, texts]) => texts.length);

function drawPrompts() {
  const prompts = [...new Set(details.runs.flatMap((run) => run.samples.map((sample) => sample.prompt)))];
  byId("samples").hidden = !prompts.length;
  const select = byId("prompt");
  const chosen = select.value;
  if (prompts.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  select.replaceChildren(
    ...prompts.map((prompt) =>
      element(
        "option",
        {value: prompt, selected: prompt === chosen},
        prompt.length > 70 ? `${prompt.slice(0, 69)}…` : prompt,
      ),
    ),
  );
}

const stepsOf = (samples) =>
  [...new Set(samples.flatMap(([, texts]) => texts.map(([step]) => step)))].sort((a, b) => a - b);

export function drawSamples() {
  const prompt = byId("prompt").value;
  const samples = samplesOf(prompt);
  const steps = stepsOf(samples);
  if (!steps.length) return;
  const slider = byId("sample-step");
  slider.max = steps.length - 1;
  const index =
    wantedStep === null
      ? steps.length - 1
      : Math.max(
          0,
          steps.findLastIndex((step) => step <= wantedStep),
        );
  slider.value = index;
  slider.setAttribute("aria-valuetext", `step ${steps[index]}`);
  byId("sample-text").textContent = `step ${count(steps[index])} · validation ${index + 1} of ${steps.length}`;
  byId("earlier").disabled = index === 0;
  byId("later").disabled = index === steps.length - 1;
  byId("texts").replaceChildren(...samples.map(([name, texts]) => sampleText(name, texts, steps[index], prompt)));
}

function sampleText(name, texts, wanted, prompt) {
  const [step, text] = texts.findLast(([at]) => at <= wanted) ?? [];
  const note = step === undefined ? "no sample yet" : step === wanted ? "" : `from step ${count(step)}`;
  const quote = element("blockquote");
  if (text?.startsWith(prompt)) quote.append(element("span", {class: "prompt"}, prompt), text.slice(prompt.length));
  else quote.append(text ?? "");
  return element(
    "figure",
    {class: "card"},
    element("figcaption", {}, swatch(lookOf(name)), title(name), note ? ` (${note})` : ""),
    quote,
  );
}

/** Move to the sample at a place of the slider; at its end, new samples are followed. */
export function moveSample(index) {
  const steps = stepsOf(samplesOf(byId("prompt").value));
  const place = Math.min(steps.length - 1, Math.max(0, index));
  wantedStep = place === steps.length - 1 ? null : steps[place];
  drawSamples();
}

/* ---- events */

export function drawEvents(series) {
  const marks = state.chosen.flatMap((name) =>
    (series.get(name)?.marks ?? []).filter((mark) => mark.event !== "resume").map((mark) => [name, mark]),
  );
  byId("events").hidden = !marks.length;
  const rows = marks
    .slice(-200)
    .reverse()
    .map(([name, mark]) =>
      row([
        title(name),
        element("td", {class: "number"}, count(mark.step)),
        markText({...mark, reason: ""}).replace(/ at step .*/, ""),
        mark.reason ?? "",
      ]),
    );
  byId("events")
    .querySelector("tbody")
    .replaceChildren(...rows);
}

/* ---- checkpoints and scores */

const scoreName = (figure) => `${figure.task} ${figure.name.replaceAll("_", " ")}`.replace(/^(\w+) \1/, "$1");

function scoreText(figure) {
  if (figure.name.includes("perplexity") && figure.value > LARGEST_PERPLEXITY) return "over 100,000";
  const [factor, unit] = figure.unit === "share" ? [100, "%"] : [1, ""];
  const digits = (value) =>
    value >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(value >= 100 || unit ? 1 : 2);
  return `${digits(figure.value * factor)}${unit}${rangeText(figure.interval, (end) => digits(end * factor), unit)}`;
}

function drawCheckpoints() {
  const figures = new Map(
    details.runs
      .flatMap((run) => run.scores.flatMap((score) => score.figures))
      .map((figure) => [scoreName(figure), figure]),
  );
  const names = [...figures.keys()];
  const rows = details.runs.flatMap((run) => run.checkpoints.map((file) => checkpointRow(run, file, names)));
  byId("checkpoints").hidden = !rows.length;
  const table = byId("checkpoints").querySelector("table");
  table.tHead.replaceChildren(
    row(
      [
        "Run",
        "Checkpoint",
        "Size",
        "Written",
        ...names.map((name) => `${name} ${figures.get(name).higher_is_better ? "↑" : "↓"}`),
      ],
      "th",
    ),
  );
  table.tBodies[0].replaceChildren(...rows);
  const sampled = [...figures.values()].find((figure) => figure.mark);
  byId("score-help").textContent = names.length
    ? `↑ higher is better, ↓ lower is better; in brackets the 95% interval.${sampled ? ` Some were scored on a sample and are not comparable with published scores.` : ""}`
    : "No benchmark results yet. Score a checkpoint with: python3 main.py benchmark --checkpoint NAME";
  drawScoreCharts(figures);
}

function checkpointRow(run, file, names) {
  const score = run.scores.find((one) => one.file === file.name);
  const cells = names.map((name) => {
    const figure = run.scores
      .filter((one) => one.file === file.name)
      .flatMap((one) => one.figures)
      .find((one) => scoreName(one) === name);
    return element("td", {class: "number"}, figure ? scoreText(figure) : "");
  });
  const scored = score && score.step !== null ? ` (scored at step ${count(score.step)})` : "";
  return element(
    "tr",
    {},
    element("td", {}, title(run.name)),
    element("td", {}, element("code", {}, file.name), scored),
    element("td", {class: "number"}, bytes(file.bytes)),
    element("td", {}, ago(file.modified)),
    ...cells,
  );
}

/** Scores by step with their 95% intervals, where a run has scores at two steps or more, or several runs have some. */
function drawScoreCharts(figures) {
  for (const chart of scoreCharts.values()) chart.show({lines: [], axis: "step", log: false});
  for (const [name, figure] of figures) {
    const lines = details.runs.map((run) => scoreLine(run, name)).filter((line) => line.x.length);
    if (lines.reduce((sum, line) => sum + line.x.length, 0) < 2) continue;
    if (!scoreCharts.has(name))
      scoreCharts.set(
        name,
        new Chart(byId("score-charts"), {
          title: name,
          note: figure.higher_is_better ? "higher is better" : "lower is better",
          format: figure.unit === "share" ? asPercent : number,
        }),
      );
    scoreCharts.get(name).show({lines, axis: "step", log: figure.name.includes("perplexity")});
  }
}

function scoreLine(run, name) {
  const points = new Map();
  for (const score of [...run.scores].reverse()) {
    const figure = score.figures.find((one) => scoreName(one) === name);
    if (figure && Number.isInteger(score.step)) points.set(score.step, figure);
  }
  const sorted = [...points].sort(([a], [b]) => a - b);
  return {
    name: title(run.name),
    ...lookOf(run.name),
    dots: true,
    x: sorted.map(([step]) => step),
    y: sorted.map(([, figure]) => figure.value),
    intervals: sorted.map(([, figure]) => figure.interval),
  };
}

/* ---- configuration */

function drawConfig() {
  const {columns, rows} = details.config;
  byId("config").hidden = !columns.length;
  const alone = details.runs.length === 1;
  byId("config-note").textContent = alone
    ? rows.length
      ? "What this run changed."
      : "This run uses the defaults, or its configuration was not recorded."
    : rows.length
      ? "Only what differs between the chosen runs."
      : "The chosen runs have the same configuration.";
  const table = byId("config").querySelector("table");
  table.parentElement.hidden = !rows.length;
  table.tHead.replaceChildren(
    row(["Setting", ...columns.map((name) => (name === "default" ? name : title(name)))], "th"),
  );
  table.tBodies[0].replaceChildren(
    ...rows.map(({key, values}) =>
      element(
        "tr",
        {},
        element("td", {}, element("code", {}, key)),
        ...values.map((value) => element("td", {class: "value"}, value)),
      ),
    ),
  );
}
