/* The list of conversations and the settings. On narrow screens they cover the conversation while they are open. */

import {byId} from "./dom.js";

const PANELS = ["sidebar", "settings"];
const main = document.querySelector("main");

const isOpen = (name) => byId(name).classList.contains("open");

export function showPanel(name, open) {
  byId(name).classList.toggle("open", open);
  if (name === "settings") byId(name).hidden = !open;
  byId(`open-${name}`).setAttribute("aria-expanded", String(open));
  main.inert = open && matchMedia("(max-width: 760px)").matches;
  if (main.inert) byId(`close-${name}`).focus();
}

function closePanel(name) {
  showPanel(name, false);
  byId(`open-${name}`).focus();
}

/** Close the panel that covers the conversation; false if there is none. */
export function closeCoveringPanel() {
  const covering = main.inert && PANELS.find(isOpen);
  if (covering) closePanel(covering);
  return Boolean(covering);
}

export function connectPanels() {
  for (const name of PANELS) {
    byId(`open-${name}`).addEventListener("click", () => showPanel(name, !isOpen(name)));
    byId(`close-${name}`).addEventListener("click", () => closePanel(name));
  }
}
