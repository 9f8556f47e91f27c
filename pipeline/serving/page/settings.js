/* The settings of a request. They start from the server's defaults; what a user changes is kept in this browser. */

import {apiKey, setApiKey} from "./api.js";
import {byId} from "./dom.js";

const STORED = "settings";
const NUMBERS = ["max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"];
const TEXTS = ["stop", "system"];

let defaults = {};
let changed = read();

function read() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

/** Show the server's defaults of a model, below what the user changed. */
export function useDefaults(model) {
  defaults = model.defaults;
  show();
}

function show() {
  for (const name of [...NUMBERS, ...TEXTS]) byId(name).value = changed[name] ?? defaults[name] ?? "";
  byId("reset").disabled = Object.keys(changed).length === 0;
}

function remember(field) {
  const isDefault = field.value === String(defaults[field.id] ?? "");
  if (isDefault || !field.checkValidity()) delete changed[field.id];
  else changed[field.id] = field.value;
  localStorage.setItem(STORED, JSON.stringify(changed));
  byId("reset").disabled = Object.keys(changed).length === 0;
}

/** The fields of a request. */
export function samplingFields() {
  const fields = {};
  for (const name of NUMBERS) {
    const value = changed[name] ?? defaults[name];
    if (value !== undefined && value !== "") fields[name] = Number(value);
  }
  if (changed.stop) fields.stop = changed.stop.replaceAll("\\n", "\n");
  return fields;
}

export const systemMessage = () => (changed.system ?? "").trim();

/** Connect the fields of the page; `onKey` is called when the API key changes. */
export function connectSettings({onKey}) {
  for (const name of [...NUMBERS, ...TEXTS]) byId(name).addEventListener("change", (event) => remember(event.target));
  byId("reset").addEventListener("click", () => {
    changed = {};
    localStorage.removeItem(STORED);
    show();
  });
  byId("key").value = apiKey();
  byId("key").addEventListener("change", () => {
    setApiKey(byId("key").value);
    onKey();
  });
}
