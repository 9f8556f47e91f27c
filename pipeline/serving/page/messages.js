/* The articles of a thread: questions, answers, and texts that a model continued. */

import {canContinue} from "./answering.js";
import {button, copyButton} from "./controls.js";
import {element} from "./dom.js";
import {renderMarkdown} from "./markdown.js";
import {versionsOf} from "./thread.js";
import {summary} from "./tokens.js";
import {TokenList} from "./token_view.js";

const ENDS = {length: "the limit on new tokens", stopped: "stopped"};

/** ‹ 2 of 3 › between the versions of a question or an answer; null if there is only one. */
function versionSwitch(thread, node, actions) {
  const versions = versionsOf(thread, node);
  if (versions.length < 2) return null;
  const at = versions.indexOf(node);
  const name = node.role === "user" ? "question" : "answer";
  const step = (direction, text, to) => {
    const label = `${direction} version of this ${name}`;
    return button(text, () => actions.choose(thread, to, label), {
      disabled: !to || actions.isBusy(),
      "aria-label": label,
    });
  };
  return element(
    "span",
    {class: "versions"},
    step("Previous", "‹", versions[at - 1]),
    element("span", {class: "number"}, `${at + 1} of ${versions.length}`),
    step("Next", "›", versions[at + 1]),
  );
}

/** Replace an article by a field in which its question can be changed. */
function editQuestion(article, thread, node, actions) {
  const field = element("textarea", {
    class: "edit",
    "aria-label": "Edit the question",
    rows: Math.min(12, node.text.split("\n").length + 1),
  });
  field.value = node.text;
  const stop = () => {
    form.replaceWith(article);
    article.querySelector("button")?.focus();
  };
  const form = element(
    "form",
    {
      class: "editing",
      onsubmit: (event) => {
        event.preventDefault();
        if (field.value.trim()) actions.edit(thread, node, field.value);
      },
    },
    field,
    element(
      "div",
      {class: "actions"},
      button("Cancel", stop),
      element("button", {class: "primary small"}, node.mode === "chat" ? "Ask again" : "Continue this text"),
    ),
  );
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      stop();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  article.replaceWith(form);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

/** A question of a chat. */
export function questionArticle(thread, node, actions) {
  const article = element(
    "article",
    {class: "message question", "aria-label": "Question", tabindex: -1, "data-node": node.id},
    element("div", {class: "body"}, node.text),
  );
  const edit = button("Edit", () => editQuestion(article, thread, node, actions), {disabled: actions.isBusy()});
  article.append(
    element(
      "footer",
      {},
      element(
        "span",
        {class: "actions"},
        versionSwitch(thread, node, actions),
        copyButton(() => node.text),
        edit,
      ),
    ),
  );
  return article;
}

/** An answer, or a text with its continuation; `update` shows what has been added. */
export class AnswerArticle {
  #frame = 0;
  #tokenList = null;

  /** `question`: the node before; its text is shown in front of a continuation. */
  constructor(thread, question, node, actions) {
    Object.assign(this, {thread, question, node, actions});
    this.body = element("div", {class: "body"});
    this.notice = element("p", {class: "notice", hidden: true});
    this.problem = element("p", {class: "notice danger", role: "alert", hidden: true});
    this.footer = element("footer");
    const nodes = [node.id, node.mode === "completion" ? question?.id : ""].join(" ");
    this.element = element(
      "article",
      {class: "message answer", tabindex: -1, "data-node": nodes},
      this.notice,
      this.body,
      this.problem,
      this.footer,
    );
    this.refresh();
  }

  /** Draw again with the next picture of the screen, at most once in each. */
  update() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.refresh();
      this.onDrawn?.();
    });
  }

  /** Draw now. `restart`: the tokens have other colours. */
  refresh({restart = false} = {}) {
    const {node, actions} = this;
    const running = actions.isRunning(node);
    this.element.setAttribute(
      "aria-label",
      node.mode === "chat" ? `Answer of ${node.model}` : `Text continued by ${node.model}`,
    );
    this.element.setAttribute("aria-busy", String(running));
    this.element.classList.toggle("running", running);
    this.#showBody(restart);
    this.#showNotices();
    const versions = [node, this.question].map((at) => (at ? versionsOf(this.thread, at).length : 0));
    const state = [running, actions.isBusy(), node.finish, actions.view(), ...versions].join(" ");
    if (running || this.footerState !== state) this.#showFooter(running);
    this.footerState = state;
  }

  #showBody(restart) {
    const {node, actions} = this;
    const record = actions.record(node);
    const isTokens = actions.view() === "tokens" && record?.tokens.length > 0;
    const kind = isTokens ? "tokens" : node.mode;
    if (this.body.dataset.kind !== kind) {
      this.body.replaceChildren();
      this.body.markdownBlocks = null;
      this.body.dataset.kind = kind;
      this.#tokenList = isTokens ? new TokenList(null) : null;
      if (node.mode === "completion") this.body.append(element("span", {class: "given"}, this.question?.text ?? ""));
      this.written = element(isTokens || node.mode === "chat" ? "div" : "span", {class: "written"});
      if (isTokens) this.written.append(this.#tokenList.element);
      this.body.append(this.written);
    }
    if (isTokens) {
      this.#tokenList.onBranch =
        actions.isBusy() || !record.promptIds
          ? null
          : (index, other) => actions.branch(this.thread, node, index, other);
      this.#tokenList.update(record.tokens, {restart});
    } else if (node.mode === "chat") renderMarkdown(this.written, node.text);
    else this.written.textContent = node.text;
  }

  #showNotices() {
    const {node} = this;
    const turns = node.droppedTurns;
    const tokens = node.droppedTokens;
    this.notice.hidden = !turns && !tokens;
    if (turns === 1) this.notice.textContent = "1 earlier turn no longer fits and was left out.";
    else if (turns) this.notice.textContent = `${turns} earlier turns no longer fit and were left out.`;
    else if (tokens) this.notice.textContent = `The first tokens of this text no longer fit, ${tokens} in all.`;
    this.problem.hidden = !node.error;
    this.problem.textContent = node.error ?? "";
  }

  #showFooter(running) {
    const {thread, node, question, actions} = this;
    const record = actions.record(node);
    const facts = element("span", {class: "facts muted"}, this.#facts(running));
    const list = element("span", {class: "actions"});
    if (!running) {
      const busy = actions.isBusy();
      const isText = node.mode === "completion" && question;
      list.append(
        ...[
          isText ? versionSwitch(thread, question, actions) : null,
          versionSwitch(thread, node, actions),
          canContinue(node, record) ? button("Continue", () => actions.goOn(thread, node), {disabled: busy}) : null,
          copyButton(() => (isText ? question.text : "") + node.text),
          isText
            ? button("Edit", () => editQuestion(this.element, thread, question, actions), {
                disabled: busy,
                "aria-label": "Edit the given text",
              })
            : null,
          button(node.error && !node.text ? "Try again" : "Regenerate", () => actions.regenerate(thread, node), {
            disabled: busy,
          }),
        ].filter(Boolean),
      );
    }
    this.footer.replaceChildren(facts, list);
  }

  #facts(running) {
    const {node, thread, actions} = this;
    const tokens = actions.record(node)?.tokens ?? [];
    const facts = [];
    if (node.model !== thread.model) facts.push(node.model);
    if (node.numTokens) facts.push(node.numTokens === 1 ? "1 token" : `${node.numTokens} tokens`);
    else if (running) facts.push("reading the prompt…");
    if (node.numTokens && node.seconds) facts.push(`${(node.numTokens / node.seconds).toFixed(0)}/s`);
    if (!running && node.firstSeconds !== undefined) facts.push(`first after ${node.firstSeconds.toFixed(2)} s`);
    if (!running && node.finish in ENDS) facts.push(`ended by ${ENDS[node.finish]}`.replace("by stopped", "by you"));
    if (!running && actions.view() === "tokens" && tokens.length) facts.push(summary(tokens));
    return facts.join(" · ");
  }
}
