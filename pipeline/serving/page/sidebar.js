/* The list of conversations: search, open, rename, export, delete. */

import {button} from "./controls.js";
import {byId, element} from "./dom.js";
import {matches} from "./conversations.js";
import {exportJson, exportMarkdown} from "./exporting.js";

export class Sidebar {
  /** `actions`: open(conversation), rename(conversation, title), remove(conversation). */
  constructor(actions) {
    this.actions = actions;
    this.search = byId("search");
    this.list = byId("conversations");
    this.menu = byId("menu");
    this.search.addEventListener("input", () => this.show(this.conversations, this.current));
    this.menu.addEventListener("toggle", (event) => {
      if (event.newState === "closed") this.opener?.setAttribute("aria-expanded", "false");
    });
  }

  show(conversations, current) {
    this.conversations = conversations;
    this.current = current;
    const found = conversations.filter((conversation) => matches(conversation, this.search.value));
    const items = found.map((conversation) => this.#item(conversation));
    const isSearch = this.search.value.trim() !== "";
    byId("no-conversations").hidden = items.length > 0;
    byId("no-conversations").textContent = isSearch
      ? "No conversation contains this."
      : "Conversations are kept in this browser.";
    this.list.replaceChildren(...items);
  }

  #item(conversation) {
    const isCurrent = conversation === this.current;
    const open = element(
      "button",
      {
        type: "button",
        class: "quiet conversation",
        "aria-current": isCurrent ? "true" : null,
        onclick: () => this.actions.open(conversation),
        title: new Date(conversation.updated).toLocaleString(),
      },
      conversation.title,
    );
    const more = element(
      "button",
      {
        type: "button",
        class: "quiet icon",
        "aria-label": `Actions for ${conversation.title}`,
        "aria-haspopup": "true",
        "aria-expanded": "false",
        onclick: (event) => this.#openMenu(event.currentTarget, conversation),
      },
      "⋯",
    );
    return element("li", {}, open, more);
  }

  #openMenu(opener, conversation) {
    const act = (label, action, attributes) =>
      button(
        label,
        () => {
          this.menu.hidePopover();
          action();
        },
        attributes,
      );
    this.menu.replaceChildren(
      act("Rename", () => this.#rename(conversation, opener)),
      act("Export as JSON", () => exportJson(conversation)),
      act("Export as Markdown", () => exportMarkdown(conversation)),
      act("Delete", () => this.#remove(conversation, opener), {class: "quiet small danger-text"}),
    );
    this.menu.showPopover();
    this.opener = opener;
    opener.setAttribute("aria-expanded", "true");
    const place = opener.getBoundingClientRect();
    this.menu.style.left = `${Math.min(place.left, innerWidth - this.menu.offsetWidth - 8)}px`;
    this.menu.style.top = `${Math.min(place.bottom + 4, innerHeight - this.menu.offsetHeight - 8)}px`;
    this.menu.querySelector("button").focus();
  }

  async #rename(conversation, opener) {
    const field = byId("new-title");
    field.value = conversation.title;
    const choice = ask(byId("rename-dialog"));
    field.select();
    if ((await choice) && field.value.trim()) this.actions.rename(conversation, field.value.trim());
    opener.focus();
  }

  async #remove(conversation) {
    byId("delete-title").textContent = conversation.title;
    if (await ask(byId("delete-dialog"))) this.actions.remove(conversation);
  }
}

/** Open a dialog; true if its form was submitted, false if it was cancelled. */
function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true});
  });
}

/** Connect the buttons and forms of a dialog. */
export function connectDialog(dialog) {
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("yes");
  });
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close(""));
}
