/* The runs page: keeps the list current, and draws the report on the chosen runs. */

import {follow, KeyProblem, load, setApiKey} from "./api.js";
import {drawCharts, makeCharts} from "./curves.js";
import {drawDetails, drawEvents, drawSamples, moveSample} from "./details.js";
import {byId} from "./dom.js";
import {drawCards, drawList, showMore} from "./list.js";
import {MAX_CHOSEN, readAddress, state, WINDOWS, writeAddress} from "./state.js";

const POINTS = 1000;
const MILLISECONDS_BETWEEN_LOADS = 1500;
const runs = new Map();
const series = new Map();
const loaded = new Map(); // run → the version that is drawn
let wasChosen = false;
let detailsShown = "";
let loading = false,
  again = false;

/* ---- the list */

function onEvent(name, {changed, gone}) {
  for (const run of changed) runs.set(run.name, run);
  for (const run of gone) {
    runs.delete(run);
    series.delete(run);
    loaded.delete(run);
  }
  if (!wasChosen && runs.size) chooseFirst();
  drawRuns();
  refresh();
}

/** Without a choice in the address: what trains now, otherwise the newest. */
function chooseFirst() {
  const newest = [...runs.values()].sort((a, b) => b.updated - a.updated);
  const training = newest.filter((run) => run.state === "training").slice(0, 3);
  state.chosen = (training.length ? training : newest.slice(0, 1)).map((run) => run.name);
  wasChosen = true;
}

function drawRuns() {
  byId("workbench").hidden = !runs.size;
  byId("empty").hidden = runs.size > 0;
  document.title = pageTitle();
  if (!runs.size) return showEmpty();
  if (byId("runs").querySelector(":active")) return setTimeout(drawRuns, 250); // a click is under way
  drawList(runs, choose);
  drawCards(runs);
}

function pageTitle() {
  const training = [...runs.values()].filter((run) => run.state === "training");
  const [run] = training;
  return run?.total_steps ? `${Math.floor((run.step / run.total_steps) * 100)}% · Runs` : "Runs";
}

async function showEmpty() {
  const found = await load("runs");
  document.querySelectorAll(".log-folder").forEach((place) => {
    place.textContent = found.log_folder;
  });
  document.querySelectorAll(".checkpoint-folder").forEach((place) => {
    place.textContent = found.checkpoint_folder;
  });
  byId("hint").hidden = byId("hint-command").hidden = !found.hint;
}

function choose(name, isChosen) {
  wasChosen = true;
  state.chosen = state.chosen.filter((run) => run !== name && runs.has(run));
  if (isChosen) state.chosen = [...state.chosen, name].slice(-MAX_CHOSEN);
  writeAddress();
  drawRuns();
  refresh();
}

/* ---- the report */

/** Load what changed of the chosen runs and draw it; at most once in a while. */
async function refresh({everything = false} = {}) {
  if (everything) loaded.clear();
  if (loading || document.hidden) {
    again = true;
    return;
  }
  loading = true;
  again = false;
  try {
    await loadChosen();
  } catch (problem) {
    if (problem instanceof KeyProblem) return askForKey();
  } finally {
    loading = false;
  }
  if (again) setTimeout(refresh, MILLISECONDS_BETWEEN_LOADS);
}

async function loadChosen() {
  const chosen = state.chosen.filter((name) => runs.has(name));
  const stale = chosen.filter((name) => loaded.get(name) !== key(name));
  await Promise.all(stale.map(loadSeries));
  drawCharts(series);
  drawEvents(series);
  const wanted = chosen
    .map((name) => `${name} ${runs.get(name)?.version} ${runs.get(name)?.checkpoints} ${runs.get(name)?.results}`)
    .join("\n");
  if (!chosen.length || wanted === detailsShown) return;
  const found = await load(
    "details",
    chosen.map((name) => ["run", name]),
  );
  if (found) drawDetails(found);
  detailsShown = wanted;
}

const key = (name) => [runs.get(name)?.version, state.x, state.smooth, state.from, state.to].join(" ");

async function loadSeries(name) {
  const wanted = key(name);
  const query = [
    ["run", name],
    ["x", state.x],
    ["points", POINTS],
    ["smooth", state.smooth],
  ];
  for (const bound of ["from", "to"]) if (state[bound] !== null) query.push([bound, state[bound]]);
  const found = await load("series", query);
  if (!found) return;
  series.set(name, found);
  loaded.set(name, wanted);
}

/* ---- controls */

function zoom(from, to) {
  Object.assign(state, {from, to});
  changed();
}

function changed() {
  writeAddress();
  showControls();
  refresh();
}

function showControls() {
  document.querySelector(`#axis [value=${state.x}]`).checked = true;
  byId("smooth").value = WINDOWS.indexOf(state.smooth);
  byId("smooth-text").textContent = state.smooth === 1 ? "off" : `mean of ${state.smooth} points`;
  byId("smooth").setAttribute("aria-valuetext", byId("smooth-text").textContent);
  byId("log").checked = state.log;
  byId("reset").hidden = state.from === null && state.to === null;
}

function wireControls() {
  byId("axis").addEventListener("change", (event) => {
    Object.assign(state, {x: event.target.value, from: null, to: null});
    changed();
  });
  byId("smooth").addEventListener("input", (event) => {
    state.smooth = WINDOWS[event.target.value];
    changed();
  });
  byId("log").addEventListener("change", (event) => {
    state.log = event.target.checked;
    changed();
  });
  byId("reset").addEventListener("click", () => zoom(null, null));
  byId("search").addEventListener("input", drawRuns);
  byId("more").addEventListener("click", () => {
    showMore();
    drawRuns();
  });
  byId("prompt").addEventListener("change", drawSamples);
  byId("sample-step").addEventListener("input", (event) => moveSample(Number(event.target.value)));
  byId("earlier").addEventListener("click", () => moveSample(Number(byId("sample-step").value) - 1));
  byId("later").addEventListener("click", () => moveSample(Number(byId("sample-step").value) + 1));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) refresh();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawRuns();
    drawCharts(series);
    detailsShown = "";
    refresh();
  });
  setInterval(() => {
    if (runs.size && !document.hidden) drawCards(runs);
  }, 10_000); // "2m ago" grows old
}

/* ---- start */

function askForKey() {
  byId("workbench").hidden = byId("empty").hidden = true;
  byId("key-form").hidden = false;
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setApiKey(byId("key").value.trim());
  location.reload();
});

async function start() {
  wasChosen = readAddress();
  makeCharts(zoom, () => zoom(null, null));
  wireControls();
  showControls();
  try {
    const found = await load("runs");
    byId("chat").hidden = !found.chat;
    onEvent("runs", {changed: found.runs, gone: []});
    await follow(onEvent, (connected) => {
      byId("connection").textContent = connected ? "live" : "not connected to the server; trying again";
    });
  } catch (problem) {
    if (problem instanceof KeyProblem) askForKey();
    else byId("connection").textContent = "The server is not responding. Reload the page when it runs again.";
  }
}

start();
