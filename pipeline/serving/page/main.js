/* The chat page: puts the parts together and carries out what people do. */

import {KeyProblem, listModels, listPages} from "./api.js";
import {requestAfter, requestFor, textOf, writeAnswer} from "./answering.js";
import {
  deleteConversation,
  keepStorage,
  loadConversations,
  loadTokensOf,
  saveConversation,
  saveTokens,
} from "./conversations.js";
import {announce} from "./controls.js";
import {byId, element} from "./dom.js";
import {importJson} from "./exporting.js";
import {Pane} from "./panes.js";
import {closeCoveringPanel, connectPanels, showPanel} from "./panels.js";
import {connectDialog, Sidebar} from "./sidebar.js";
import {connectSettings, useDefaults} from "./settings.js";
import {
  addNode,
  chooseVersion,
  counterpart,
  follow,
  newConversation,
  newThread,
  pathOf,
  shownThreads,
} from "./thread.js";
import {isEnd, withAlternative} from "./tokens.js";
import {card, connectLegend} from "./token_view.js";

const LAST_MODELS = "models";
const SAVE_EVERY = 2000; // milliseconds, while an answer is written
const TITLE_LENGTH = 60;

let models = [];
let conversations = [];
let conversation = null; // the one on the screen; it is in the list from its first question on
let panes = [];
let running = null; // {controller, nodes}: one request at a time, of one or two threads
const records = new Map(); // the tokens of answers, by the id of their node
const otherTabs = new BroadcastChannel("conversations");

const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const modelOf = (thread) => models.find((model) => model.id === thread.model);
const threads = () => shownThreads(conversation);

/* A base model next to a chat model continues the question like any other text. */
const modeFor = (thread, mode) => (modelOf(thread)?.supports_chat ? mode : "completion");

const actions = {
  isBusy: () => running !== null,
  isRunning: (node) => running?.nodes.has(node) ?? false,
  record: (node) => records.get(node.tokensOf ?? node.id),
  view: () => checked("view"),

  choose(thread, node, label) {
    chooseVersion(thread, node);
    save(conversation);
    draw();
    keepFocus(node, label);
  },

  edit(thread, question, text) {
    const jobs = threads().flatMap((other) => {
      const target = other === thread ? question : counterpart(thread, other, question);
      return target ? [ask(other, other.nodes[target.parent], text, target.mode)] : [];
    });
    write(jobs);
  },

  regenerate(thread, node) {
    write([answer(thread, thread.nodes[node.parent])]);
  },

  goOn(thread, node) {
    const record = {...actions.record(node), id: node.id};
    record.tokens = [...record.tokens];
    delete node.tokensOf;
    records.set(node.id, record);
    write([{thread, node, request: requestAfter(node.model, record.promptIds, record.tokens)}]);
  },

  /** Write an answer again from one of its tokens on, with an alternative in its place. */
  branch(thread, node, index, alternative) {
    const {promptIds, tokens} = actions.record(node);
    const kept = [...tokens.slice(0, index), withAlternative(tokens[index], alternative)];
    const {role, mode, model, droppedTurns, droppedTokens} = node;
    const made = addNode(thread, thread.nodes[node.parent], {
      role,
      mode,
      model,
      droppedTurns,
      droppedTokens,
      text: textOf(kept, mode),
      numTokens: kept.length,
    });
    records.set(made.id, {id: made.id, conversation: conversation.id, promptIds, tokens: kept});
    if (isEnd(alternative)) {
      made.finish = "stop";
      saveTokens(records.get(made.id)).catch(reportStorage);
      save(conversation);
      draw();
    } else write([{thread, node: made, request: requestAfter(model, promptIds, kept)}]);
  },

  chooseModel(index, name) {
    threads()[index].model = name;
    rememberModels();
    save(conversation);
    draw();
  },

  stopComparing() {
    conversation.comparing = false;
    rememberModels();
    save(conversation);
    draw();
    byId("compare").focus();
  },
};

/** Add a question below `parent`, and prepare its answer. */
function ask(thread, parent, text, mode) {
  return answer(thread, addNode(thread, parent, {role: "user", mode: modeFor(thread, mode), text}));
}

/** Prepare an answer to `question`: {thread, node, request}. */
function answer(thread, question) {
  const mode = modeFor(thread, question.mode);
  const node = addNode(thread, question, {role: "assistant", mode, model: thread.model, text: ""});
  records.set(node.id, {id: node.id, conversation: conversation.id, tokens: []});
  return {thread, node, request: requestFor(thread, question, mode)};
}

/** Carry out prepared answers at the same time, until all are done or stopped. */
async function write(jobs) {
  const written = conversation;
  running = {controller: new AbortController(), conversation: written, nodes: new Set(jobs.map((job) => job.node))};
  save(written);
  draw();
  for (const pane of panes) pane.scrollToEnd();
  keepFocus(jobs[0].node);
  announce("Writing");
  let saved = performance.now();
  await Promise.all(
    jobs.map(async ({node, request}) => {
      const record = records.get(node.id);
      const changed = () => {
        for (const pane of panes) pane.update(node);
        if (performance.now() - saved > SAVE_EVERY) {
          saved = performance.now();
          save(written);
        }
      };
      await writeAnswer(request, {node, record, signal: running.controller.signal, changed});
      if (conversations.includes(written)) saveTokens(record).catch(reportStorage);
    }),
  );
  running = null;
  save(written);
  draw();
  keepFocus(jobs[0].node);
  announce(jobs.map(({node}) => node.error ?? `Answer complete, ${node.numTokens} tokens`).join(". "));
}

function send() {
  const text = byId("prompt").value;
  if (!text.trim() || running || !models.length) return;
  if (!conversations.includes(conversation)) {
    conversation.title = text.trim().split("\n")[0].slice(0, TITLE_LENGTH);
    conversations.unshift(conversation);
    history.replaceState(null, "", `#${conversation.id}`);
    keepStorage();
  }
  byId("prompt").value = "";
  write(threads().map((thread) => ask(thread, pathOf(thread).at(-1), text, checked("mode"))));
}

/* Storage */

async function save(changed) {
  if (!conversations.includes(changed)) return;
  changed.updated = Date.now();
  conversations.sort((one, other) => other.updated - one.updated);
  try {
    await saveConversation(changed);
    otherTabs.postMessage("changed");
  } catch (problem) {
    reportStorage(problem);
  }
}

function reportStorage(problem) {
  showProblem(`This browser could not store the conversation (${problem.message}). Export it if you need it.`);
}

/** Read the list again after another tab changed it; what is on the screen here stays. */
async function readAgain() {
  const stored = await loadConversations();
  const open = [conversation, running?.conversation];
  conversations = stored.map((found) => open.find((other) => other?.id === found.id) ?? found);
  sidebar.show(conversations, conversation);
}

/* Drawing */

/** Buttons are drawn again when their message changes; put the focus that this costs back near its place. */
function keepFocus(node, label) {
  if (document.activeElement === document.body) panes.forEach((pane) => pane.focusMessage(node, label));
}

function showProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function draw() {
  const shown = threads();
  byId("legend").hidden = checked("view") !== "tokens";
  if (panes.length !== shown.length) {
    panes = shown.map((_, index) => new Pane(index, actions));
    byId("panes").replaceChildren(...panes.map((pane) => pane.element));
  }
  drawModes(shown);
  panes.forEach((pane, index) => {
    const thread = shown[index];
    pane.showModels(models, thread.model);
    const isChat = modeFor(thread, checked("mode")) === "chat";
    pane.show(thread, isChat ? "Ask something." : "Write the start of a text, and the model continues it.");
  });
  const first = modelOf(shown[0]);
  if (first) useDefaults(first);
  byId("compare").setAttribute("aria-pressed", String(conversation.comparing));
  byId("send").disabled = running !== null;
  byId("stop-button").hidden = running === null;
  byId("title").textContent = conversation.title || "New conversation";
  document.title = conversation.title ? `${conversation.title} · Language model` : "Language model";
  sidebar.show(conversations, conversation);
}

function drawModes(shown) {
  const canChat = shown.some((thread) => modelOf(thread)?.supports_chat);
  const [chat, completion] = document.querySelectorAll("input[name=mode]");
  chat.disabled = !canChat;
  chat.parentElement.title = canChat ? "" : "Base models are not trained on conversations. Fine-tune the model first.";
  if (!canChat) completion.checked = true;
  byId("prompt").placeholder = checked("mode") === "chat" ? "Ask something" : "The start of a text";
}

/* Conversations */

function rememberModels() {
  localStorage.setItem(LAST_MODELS, JSON.stringify(threads().map((thread) => thread.model)));
}

/** A new conversation with the checkpoints used last, as far as they are served. */
function startConversation() {
  const preferred = models.find((model) => model.supports_chat) ?? models[0];
  let names = [];
  try {
    names = JSON.parse(localStorage.getItem(LAST_MODELS)) ?? [];
  } catch {
    /* written by something else */
  }
  names = names.filter((name) => models.some((model) => model.id === name));
  conversation = newConversation(names.length ? names : [preferred.id]);
  history.replaceState(null, "", location.pathname);
  if (modelOf(conversation.threads[0]).supports_chat) document.querySelector("input[value=chat]").checked = true;
  draw();
}

async function openConversation(chosen) {
  showPanel("sidebar", false);
  if (chosen === conversation) return;
  for (const record of await loadTokensOf(chosen.id)) {
    if (!records.has(record.id)) records.set(record.id, record);
  }
  conversation = chosen;
  const lastQuestion = pathOf(chosen.threads[0]).findLast((node) => node.role === "user");
  if (lastQuestion) document.querySelector(`input[value=${lastQuestion.mode}]`).checked = true;
  history.replaceState(null, "", `#${chosen.id}`);
  draw();
  for (const pane of panes) pane.scrollToEnd();
}

function toggleComparison() {
  if (conversation.comparing) return actions.stopComparing();
  const [first] = conversation.threads;
  if (conversation.threads.length < 2) {
    const other = models.find((model) => model.id !== first.model) ?? models[0];
    conversation.threads.push(newThread(other.id));
  }
  follow(conversation.threads[1], first);
  conversation.comparing = true;
  rememberModels();
  save(conversation);
  draw();
}

async function importFile(event) {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (!file) return;
  try {
    const imported = await importJson(file);
    conversations.unshift(imported);
    otherTabs.postMessage("changed");
    showProblem("");
    await openConversation(imported);
  } catch (problem) {
    showProblem(problem.message);
  }
}

const sidebar = new Sidebar({
  open: openConversation,
  rename(chosen, title) {
    chosen.title = title;
    save(chosen);
    draw();
  },
  async remove(chosen) {
    conversations = conversations.filter((other) => other !== chosen);
    if (chosen === conversation) {
      running?.controller.abort();
      startConversation();
    } else draw();
    await deleteConversation(chosen.id).catch(reportStorage);
    otherTabs.postMessage("changed");
  },
});

/* The page */

function isSending(event) {
  // While an input method composes a character, Enter belongs to it (229 in Safari).
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}

function connect() {
  card.connect();
  connectLegend(() => panes.forEach((pane) => pane.redrawTokens()));
  connectSettings({onKey: load});
  for (const dialog of document.querySelectorAll("dialog")) connectDialog(dialog);
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (!isSending(event)) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !closeCoveringPanel()) running?.controller.abort();
  });
  byId("stop-button").addEventListener("click", () => running?.controller.abort());
  byId("new").addEventListener("click", () => {
    showPanel("sidebar", false);
    startConversation();
    byId("prompt").focus();
  });
  byId("compare").addEventListener("click", toggleComparison);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", importFile);
  connectPanels();
  for (const input of document.querySelectorAll("input[name=view], input[name=mode]"))
    input.addEventListener("change", draw);
  addEventListener("hashchange", openFromAddress);
  otherTabs.addEventListener("message", readAgain);
}

function openFromAddress() {
  const found = conversations.find((other) => other.id === location.hash.slice(1));
  if (found) openConversation(found);
}

/** Link to the other pages of the server, such as the runs; without them, the chat works all the same. */
async function linkPages() {
  for (const {name, path} of await listPages().catch(() => [])) {
    byId("links").prepend(element("a", {href: path.slice(1)}, name[0].toUpperCase() + name.slice(1)));
  }
}

async function load() {
  try {
    models = await listModels();
  } catch (problem) {
    showProblem(problem.message);
    if (problem instanceof KeyProblem) {
      showPanel("settings", true);
      byId("key").focus();
    }
    return;
  }
  showProblem("");
  conversations = await loadConversations().catch((problem) => {
    reportStorage(problem);
    return [];
  });
  const address = location.hash;
  startConversation();
  history.replaceState(null, "", address || location.pathname);
  openFromAddress();
  if (matchMedia("(min-width: 1100px)").matches) showPanel("settings", true);
  if (matchMedia("(hover: hover)").matches) byId("prompt").focus();
}

connect();
linkPages();
load();
