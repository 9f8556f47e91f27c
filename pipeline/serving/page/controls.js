/* Buttons, messages for screen readers, the clipboard and downloads. */

import {byId, element} from "./dom.js";

export function button(label, action, attributes = {}) {
  return element("button", {type: "button", class: "quiet small", onclick: action, ...attributes}, label);
}

/** Tell people who use a screen reader what happened. */
export function announce(text) {
  byId("status").textContent = text;
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // plain HTTP from another machine: browsers offer only the older way
    const area = element("textarea", {class: "visually-hidden", "aria-hidden": "true"});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
}

/** A button that copies what `read` returns, and says so for a moment. */
export function copyButton(read) {
  const made = button("Copy", async () => {
    await copyText(read());
    made.textContent = "Copied";
    setTimeout(() => {
      made.textContent = "Copy";
    }, 1200);
  });
  return made;
}

export function download(name, type, text) {
  const link = element("a", {href: URL.createObjectURL(new Blob([text], {type})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
