/* The tokens of an answer, coloured by probability or entropy, and a card with the alternatives of one token. */

import {byId, element} from "./dom.js";
import {bits, isEnd, percent, probability, visible} from "./tokens.js";

/* From certain to surprising. The underline grows with the colour, so that nothing depends on colour alone. */
const SCALES = {
  probability: {
    level: (token) => [0.9, 0.5, 0.2, 0.05].filter((limit) => probability(token) < limit).length,
    labels: ["90 % and more", "50 to 90 %", "20 to 50 %", "5 to 20 %", "below 5 %"],
  },
  entropy: {
    level: (token) => [0.5, 1.5, 3, 5].filter((limit) => bits(token.entropy) >= limit).length,
    labels: ["below 0.5 bits", "0.5 to 1.5", "1.5 to 3", "3 to 5", "5 bits and more"],
  },
};

let scale = SCALES.probability;

/** Connect the legend, in which the scale is chosen; `onChange` redraws the tokens. */
export function connectLegend(onChange) {
  const show = () => {
    const steps = scale.labels.map((label, level) =>
      element("li", {}, element("span", {class: `token level-${level}`, "aria-hidden": "true"}, "abc"), label),
    );
    byId("legend-steps").replaceChildren(...steps);
  };
  for (const input of document.querySelectorAll("input[name=scale]")) {
    input.addEventListener("change", () => {
      scale = SCALES[input.value];
      show();
      onChange();
    });
  }
  show();
}

/** The tokens of one answer. Arrow keys move from token to token; hover or focus shows the card. */
export class TokenList {
  /** `onBranch(index, alternative)` is called when an alternative is chosen; null: nothing can be chosen now. */
  constructor(onBranch) {
    this.onBranch = onBranch;
    this.tokens = [];
    this.element = element("div", {
      class: "tokens",
      role: "group",
      "aria-label": "Tokens. Left and right arrow move between tokens, Enter opens the alternatives.",
      onkeydown: (event) => this.#press(event),
      onfocusin: (event) => this.#open(event, 0),
      onmouseover: (event) => this.#open(event, 120),
      onmouseleave: () => card.closeSoon(),
      onclick: (event) => this.#click(event),
    });
  }

  /** Show `tokens`; those already shown are kept. */
  update(tokens, {restart = false} = {}) {
    if (restart || tokens.length < this.element.childElementCount) this.element.replaceChildren();
    this.tokens = tokens;
    const shown = this.element.querySelectorAll(".token").length;
    for (const token of tokens.slice(shown)) this.element.append(...this.#draw(token));
    const first = this.element.querySelector(".token");
    if (first && !this.element.querySelector("[tabindex='0']")) first.tabIndex = 0;
  }

  #draw(token) {
    const text = visible(token);
    const details = `${text}, ${percent(probability(token))}, entropy ${bits(token.entropy).toFixed(2)} bits`;
    const attributes = {
      class: `token level-${scale.level(token)}`,
      role: "button",
      tabindex: -1,
      "aria-label": details,
      "aria-haspopup": "dialog",
    };
    const drawn = element("span", attributes, text);
    drawn.classList.toggle("end", isEnd(token));
    return text.endsWith("↵") ? [drawn, element("br")] : [drawn];
  }

  #all() {
    return [...this.element.querySelectorAll(".token")];
  }

  #open(event, delay) {
    const target = event.target.closest(".token");
    if (!target) return;
    const index = this.#all().indexOf(target);
    card.open(this, index, target, delay);
  }

  #click(event) {
    const target = event.target.closest(".token");
    if (!target) return;
    target.focus();
    this.#open(event, 0);
  }

  #press(event) {
    const tokens = this.#all();
    const index = tokens.indexOf(event.target);
    if (index < 0) return;
    const moves = {ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tokens.length - 1};
    if (event.key in moves) {
      event.preventDefault();
      this.focus(Math.max(0, Math.min(tokens.length - 1, moves[event.key])));
    } else if (["Enter", " ", "ArrowDown"].includes(event.key)) {
      event.preventDefault();
      card.open(this, index, event.target, 0);
      card.enter();
    } else if (event.key === "Escape" && card.isOpen) {
      event.stopPropagation();
      card.close();
    }
  }

  focus(index) {
    for (const token of this.#all()) token.tabIndex = -1;
    const target = this.#all()[index];
    if (!target) return;
    target.tabIndex = 0;
    target.focus();
  }
}

/** The one card of the page. It stays open while the pointer or the focus is on it. */
class TokenCard {
  #timer = 0;
  #list = null;
  #index = 0;
  #target = null;

  connect() {
    this.element = byId("token-card");
    this.element.addEventListener("mouseenter", () => clearTimeout(this.#timer));
    this.element.addEventListener("mouseleave", () => this.closeSoon());
    this.element.addEventListener("keydown", (event) => this.#press(event));
    document.addEventListener("focusin", (event) => {
      if (this.isOpen && !this.element.contains(event.target) && !event.target.closest(".token")) this.close();
    });
    document.addEventListener("pointerdown", (event) => {
      if (this.isOpen && !this.element.contains(event.target) && !event.target.closest(".token")) this.close();
    });
    document.addEventListener("scroll", () => this.#place(), true);
    addEventListener("resize", () => this.#place());
  }

  get isOpen() {
    return !this.element.hidden;
  }

  open(list, index, target, delay) {
    clearTimeout(this.#timer);
    const show = () => {
      if (!target.isConnected) return;
      this.#list = list;
      this.#index = index;
      this.#target = target;
      this.#fill(list.tokens[index]);
      this.element.hidden = false;
      this.#place();
    };
    if (delay) this.#timer = setTimeout(show, delay);
    else show();
  }

  closeSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.element.contains(document.activeElement)) this.close();
    }, 250);
  }

  close() {
    clearTimeout(this.#timer);
    this.element.hidden = true;
  }

  enter() {
    (this.element.querySelector("button:not(:disabled)") ?? this.element).focus();
  }

  #press(event) {
    const buttons = [...this.element.querySelectorAll("button:not(:disabled)")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "Escape") {
      event.stopPropagation();
      this.close();
      this.#list.focus(this.#index);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      buttons[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    }
  }

  #fill(token) {
    const rank = token.top.findIndex((other) => other.id === token.id);
    const facts = element(
      "dl",
      {},
      ...fact("Probability", percent(probability(token))),
      ...fact("Rank", rank < 0 ? `below ${token.top.length}` : String(rank + 1)),
      ...fact("Entropy", `${bits(token.entropy).toFixed(2)} bits`),
      ...fact("Token id", String(token.id)),
    );
    const list = element("ol", {}, ...token.top.map((other) => element("li", {}, this.#alternative(token, other))));
    const free = this.#list.onBranch !== null;
    this.element.replaceChildren(
      element("p", {class: "card-title"}, visible(token)),
      facts,
      element("p", {class: "muted"}, free ? "Choose another token to go on from there:" : "Alternatives:"),
      list,
    );
    this.element.setAttribute("aria-label", `Alternatives to ${visible(token)}`);
  }

  #alternative(token, other) {
    const isChosen = other.id === token.id;
    const bar = element("span", {class: "bar", "aria-hidden": "true"});
    bar.style.setProperty("--share", probability(other).toFixed(4));
    const {onBranch} = this.#list;
    return element(
      "button",
      {
        type: "button",
        class: "alternative",
        disabled: isChosen || onBranch === null,
        onclick: () => {
          this.close();
          onBranch(this.#index, other);
        },
      },
      bar,
      element("span", {class: "text"}, visible(other), isChosen ? element("span", {class: "mark"}, "written") : null),
      element("span", {class: "number"}, percent(probability(other))),
    );
  }

  /** Below the token if it fits there or there is more room than above; on a phone, at the bottom of the screen. */
  #place() {
    if (!this.isOpen) return;
    const {style} = this.element;
    for (const name of ["left", "top", "max-height"]) style.removeProperty(name);
    if (matchMedia("(max-width: 640px)").matches) return;
    const place = this.#target.getClientRects()[0];
    if (!place) return this.close();
    const {offsetWidth: width, offsetHeight: height} = this.element;
    const [above, below] = [place.top - 14, innerHeight - place.bottom - 14];
    const isBelow = height <= below || below >= above;
    const shown = Math.min(height, isBelow ? below : above);
    style.maxHeight = `${shown}px`;
    style.left = `${Math.max(8, Math.min(place.left - 12, innerWidth - width - 8))}px`;
    style.top = `${isBelow ? place.bottom + 6 : place.top - shown - 6}px`;
  }
}

const fact = (name, value) => [element("dt", {}, name), element("dd", {class: "number"}, value)];

export const card = new TokenCard();
