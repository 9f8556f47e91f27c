/* What the reader chose; it is in the address, so that it can be kept and sent. */

import {themeColor} from "./chart.js";

export const MAX_CHOSEN = 12;
export const WINDOWS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
const DASHES = ["", "", "", "", "8 3", "8 3", "8 3", "8 3", "2 3", "2 3", "2 3", "2 3"];
const NUM_COLORS = 8;

export const state = {chosen: [], x: "step", smooth: 1, log: false, from: null, to: null};
const slots = new Map();

export function readAddress() {
  const query = new URLSearchParams(location.search);
  state.chosen = [...new Set(query.getAll("run"))].slice(0, MAX_CHOSEN);
  if (["step", "tokens", "time"].includes(query.get("x"))) state.x = query.get("x");
  if (WINDOWS.includes(Number(query.get("smooth")))) state.smooth = Number(query.get("smooth"));
  state.log = query.get("log") === "1";
  for (const name of ["from", "to"])
    state[name] = query.has(name) && Number.isFinite(Number(query.get(name))) ? Number(query.get(name)) : null;
  return query.has("run");
}

export function writeAddress() {
  const query = state.chosen.map((run) => ["run", run]);
  if (state.x !== "step") query.push(["x", state.x]);
  if (state.smooth !== 1) query.push(["smooth", state.smooth]);
  if (state.log) query.push(["log", 1]);
  for (const name of ["from", "to"]) if (state[name] !== null) query.push([name, state[name]]);
  const search = new URLSearchParams(query).toString();
  history.replaceState(null, "", `${location.pathname}${search && `?${search}`}`);
}

/** A run keeps its colour while it is chosen; the others get the first free ones. */
function slotOf(run) {
  for (const known of slots.keys()) if (!state.chosen.includes(known)) slots.delete(known);
  for (const chosen of state.chosen) {
    const used = new Set(slots.values());
    if (!slots.has(chosen))
      slots.set(
        chosen,
        DASHES.findIndex((_, slot) => !used.has(slot)),
      );
  }
  return slots.get(run) ?? 0;
}

export function lookOf(run) {
  const slot = slotOf(run);
  return {color: themeColor(`series-${(slot % NUM_COLORS) + 1}`), dash: DASHES[slot]};
}
