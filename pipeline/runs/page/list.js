/* The list of runs, and a card with the figures of each chosen one. */

import {swatch} from "./chart.js";
import {byId, element, row} from "./dom.js";
import {ago, clock, count, duration, number, percent, title} from "./format.js";
import {lookOf, state} from "./state.js";

const FIRST_SHOWN = 60;
const MOST_CARDS = 3;
const STATES = {
  training: "training now",
  stalled: "no news",
  finished: "finished",
  interrupted: "interrupted",
  "no log": "no log",
};
let shown = FIRST_SHOWN;

const badge = (run) =>
  element("span", {class: `badge ${run.state.replace(" ", "-")}`, title: run.detail || null}, STATES[run.state]);

/** Draw the list; `onChoose(name, chosen)` is called for every click. */
export function drawList(runs, onChoose) {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fitting = [...runs.values()].filter((run) =>
    words.every((word) =>
      `${run.name} ${title(run.name)} ${STATES[run.state]} ${run.kind}`.toLowerCase().includes(word),
    ),
  );
  fitting.sort((a, b) => (b.state === "training") - (a.state === "training") || b.updated - a.updated);
  const focused = document.activeElement?.closest("#runs") ? document.activeElement.value : null;
  byId("runs").replaceChildren(...fitting.slice(0, shown).map((run) => item(run, onChoose)));
  if (!fitting.length) byId("runs").append(element("li", {class: "muted"}, "No run has this name."));
  if (focused) [...byId("runs").querySelectorAll("input")].find((input) => input.value === focused)?.focus();
  byId("more").hidden = fitting.length <= shown;
  byId("more").textContent = `Show ${Math.min(500, fitting.length - shown)} more of ${fitting.length}`;
}

export function showMore() {
  shown += 500;
}

function item(run, onChoose) {
  const chosen = state.chosen.includes(run.name);
  const box = element("input", {
    type: "checkbox",
    value: run.name,
    checked: chosen,
    onchange: (event) => onChoose(run.name, event.target.checked),
  });
  const name = element("span", {class: "title"}, title(run.name), " ", chosen ? swatch(lookOf(run.name)) : null);
  return element(
    "li",
    {},
    element("label", {title: run.name}, box, name, element("span", {class: "facts"}, badge(run), ` ${facts(run)}`)),
  );
}

function facts(run) {
  const parts = [];
  if (run.kind === "fine-tuning") parts.push("fine-tuning");
  if (run.state === "training" && run.total_steps) parts.push(percent(run.step / run.total_steps));
  else if (run.step) parts.push(`${count(run.step)} steps`);
  if (run.best_loss !== undefined) parts.push(`loss ${number(run.best_loss)}`);
  else if (run.loss !== undefined) parts.push(`loss ${number(run.loss)}`);
  parts.push(
    run.seconds_left !== null && run.seconds_left !== undefined
      ? `${duration(run.seconds_left)} left`
      : ago(run.updated),
  );
  return parts.join(" · ");
}

export function drawCards(runs) {
  const chosen = state.chosen.map((name) => runs.get(name)).filter(Boolean);
  byId("cards").classList.toggle("many", chosen.length > MOST_CARDS);
  byId("cards").replaceChildren(...(chosen.length > MOST_CARDS ? [overview(chosen)] : chosen.map(card)));
  byId("nothing-chosen").hidden = chosen.length > 0;
  byId("report").hidden = !chosen.length;
}

/** A table instead of cards, which would push the charts out of sight. */
function overview(chosen) {
  const heads = ["Run", "State", "Step", "Training loss", "Best validation", "Tokens", "Tokens/s", "Time left"];
  const rows = chosen.map((run) =>
    row([
      element("td", {}, swatch(lookOf(run.name)), ` ${title(run.name)}`),
      element("td", {}, badge(run)),
      ...[run.step, run.loss, run.best_loss, run.tokens, run.tokens_per_second, run.seconds_left].map((value, index) =>
        element(
          "td",
          {class: "number"},
          value === undefined || value === null ? "" : [count, number, number, count, count, duration][index](value),
        ),
      ),
    ]),
  );
  const head = element(
    "tr",
    {},
    ...heads.map((text, index) => element("th", {class: index > 1 ? "number" : null}, text)),
  );
  return element(
    "div",
    {class: "scroll card", tabindex: 0, role: "group", "aria-label": "Table"},
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)),
  );
}

function card(run) {
  const progress = run.total_steps
    ? element("progress", {max: run.total_steps, value: Math.min(run.step, run.total_steps), "aria-label": "Progress"})
    : null;
  const figures = [
    ["Step", run.step === undefined ? null : count(run.step), run.total_steps ? `of ${count(run.total_steps)}` : ""],
    ["Training loss", run.loss === undefined ? null : number(run.loss), "recent mean"],
    [
      "Best validation",
      run.best_loss === undefined ? null : number(run.best_loss),
      run.best_step === undefined ? "" : `step ${count(run.best_step)}`,
    ],
    ["Tokens", run.tokens === undefined ? null : count(run.tokens), ""],
    [
      "Tokens/s",
      run.tokens_per_second === undefined ? null : count(run.tokens_per_second),
      run.mfu === undefined ? (run.device ?? "") : `MFU ${percent(run.mfu)}`,
    ],
    run.seconds_left !== null && run.seconds_left !== undefined
      ? ["Time left", duration(run.seconds_left), `until ${clock(Date.now() / 1000 + run.seconds_left)}`]
      : [
          "Last news",
          ago(run.updated),
          run.started && run.updated > run.started ? `started ${clock(run.started)}` : clock(run.updated),
        ],
  ];
  return element(
    "article",
    {class: "card", "aria-label": title(run.name)},
    element(
      "div",
      {class: "head"},
      swatch(lookOf(run.name)),
      element("h2", {title: run.name}, title(run.name)),
      badge(run),
    ),
    progress,
    element(
      "dl",
      {},
      ...figures
        .filter(([, value]) => value !== null)
        .map(([name, value, note]) =>
          element(
            "div",
            {},
            element("dt", {}, name),
            element("dd", {}, value, note ? element("small", {}, note) : null),
          ),
        ),
    ),
    ...notes(run).map((text) => element("p", {class: "detail"}, text)),
  );
}

function notes(run) {
  const found = run.detail ? [run.detail.charAt(0).toUpperCase() + run.detail.slice(1)] : [];
  if (run.state === "interrupted" && run.checkpoints) {
    const [command, option] = run.kind === "fine-tuning" ? ["sft", "--resume"] : ["train", "--resume"];
    found.push(`Continue with: python3 main.py ${command} ${option} ${run.folder}`);
  }
  if (run.state === "stalled")
    found.push(`The process is running, but its log is ${ago(run.updated).replace(" ago", "")} old`);
  if (run.skipped || run.rollbacks)
    found.push(
      `${run.skipped} skipped ${run.skipped === 1 ? "step" : "steps"}, ${run.rollbacks} ${run.rollbacks === 1 ? "rollback" : "rollbacks"}`,
    );
  return found;
}
