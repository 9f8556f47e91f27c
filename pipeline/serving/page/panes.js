/* A pane for each checkpoint: its choice at the top, and the thread below. */

import {button} from "./controls.js";
import {element} from "./dom.js";
import {AnswerArticle, questionArticle} from "./messages.js";
import {pathOf} from "./thread.js";

export class Pane {
  #answers = new Map(); // node id → article, so that what is on the screen is not built again

  constructor(index, actions) {
    this.index = index;
    this.actions = actions;
    this.select = element("select", {
      "aria-label": index ? "Compared checkpoint" : "Checkpoint",
      onchange: () => actions.chooseModel(index, this.select.value),
    });
    this.context = element("span", {class: "muted"});
    const header = element("div", {class: "pane-header"}, this.select, this.context);
    const close = {class: "quiet icon", "aria-label": "Stop comparing"};
    if (index) header.append(button("×", actions.stopComparing, close));
    this.log = element("div", {
      class: "log",
      tabindex: 0,
      role: "region",
      "aria-label": index ? "Compared conversation" : "Conversation",
    });
    this.element = element(
      "section",
      {class: "pane", "aria-label": index ? "Compared checkpoint" : "Checkpoint"},
      header,
      this.log,
    );
  }

  /** Offer the served models, and `thread`'s own even if it is not served now. */
  showModels(models, chosen) {
    const names = models.map((model) => model.id);
    const options = names.map((name) => new Option(name, name));
    if (!names.includes(chosen)) options.push(new Option(`${chosen} (not served)`, chosen));
    this.select.replaceChildren(...options);
    this.select.value = chosen;
    const model = models.find((other) => other.id === chosen);
    const kind = model?.supports_chat ? "fine-tuned" : "base model";
    this.context.textContent = model ? `${kind} · context ${model.context_window.toLocaleString("en")}` : "";
  }

  /** Draw the thread's path. `hint` is shown if it is empty. */
  show(thread, hint) {
    const wasAtEnd = this.isAtEnd();
    const place = this.log.scrollTop;
    if (this.thread !== thread) this.#answers.clear();
    const isOther = this.thread !== thread;
    this.thread = thread;
    const path = pathOf(thread);
    const articles = [];
    path.forEach((node, index) => {
      const next = path[index + 1];
      if (node.role === "assistant") articles.push(this.#answer(thread, path[index - 1], node).element);
      else if (next?.mode !== "completion") articles.push(questionArticle(thread, node, this.actions));
    });
    this.log.replaceChildren(...(articles.length ? articles : [element("p", {class: "hint muted"}, hint)]));
    if (isOther || wasAtEnd) this.scrollToEnd();
    else this.log.scrollTop = place;
  }

  #answer(thread, question, node) {
    let article = this.#answers.get(node.id);
    if (!article) {
      article = new AnswerArticle(thread, question, node, this.actions);
      article.onDrawn = () => this.#follow();
      this.#answers.set(node.id, article);
    } else article.refresh();
    return article;
  }

  /** Show what was added to an answer, if it is on the screen. */
  update(node) {
    const article = this.#answers.get(node.id);
    if (!article?.element.isConnected) return;
    this.following ??= this.isAtEnd();
    article.update();
  }

  /** Focus the button of a message with this label, or the message itself, if it is in this pane. */
  focusMessage(node, label) {
    const message = [...this.log.children].find((child) => child.dataset.node?.split(" ").includes(node.id));
    const named = label && message?.querySelector(`[aria-label="${label}"]:not(:disabled)`);
    (named ?? message)?.focus({preventScroll: true});
  }

  redrawTokens() {
    for (const article of this.#answers.values()) article.refresh({restart: true});
  }

  isAtEnd() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 60;
  }

  scrollToEnd() {
    this.log.scrollTop = this.log.scrollHeight;
  }

  #follow() {
    if (this.following) this.scrollToEnd();
    this.following = null;
  }
}
