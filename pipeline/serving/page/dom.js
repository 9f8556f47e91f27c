/* Small helpers for building elements. Text is always set as text, never as HTML. */

export const byId = (id) => document.getElementById(id);

/** element("button", {class: "quiet", type: "button", onclick: save}, "Save", icon) */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

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
