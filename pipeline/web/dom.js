/* Small helpers for building elements. Text is always set as text, never as HTML. */

export const byId = (id) => document.getElementById(id);

/** element("button", {type: "button", onclick: save}, "Save") */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function row(cells, tag = "td") {
  return element("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : element(tag, {}, cell))));
}
