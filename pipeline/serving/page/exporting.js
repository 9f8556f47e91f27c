/* Conversations as files: JSON with every version and token, Markdown with what is on the screen. */

import {download} from "./controls.js";
import {loadTokensOf, saveConversation, saveTokens} from "./conversations.js";
import {newId, pathOf, shownThreads} from "./thread.js";

const FORMAT = "language-model-conversation";

export async function exportJson(conversation) {
  const tokens = await loadTokensOf(conversation.id);
  const content = {format: FORMAT, version: 1, conversation, tokens};
  download(`${fileName(conversation)}.json`, "application/json", `${JSON.stringify(content, null, 1)}\n`);
}

/** Store an exported conversation as a new one, and return it.

    Throws an Error with a message for the user if the file is something else. */
export async function importJson(file) {
  let content;
  try {
    content = JSON.parse(await file.text());
  } catch {
    throw new Error(`${file.name} is not JSON; expected an exported conversation`);
  }
  if (content?.format !== FORMAT || content.version !== 1 || !isComplete(content)) {
    throw new Error(`${file.name} is not a conversation exported by this page`);
  }
  const {conversation, tokens} = content;
  // The original may be here too, so tokens get new ids, and the answers point to them.
  const ids = new Map(tokens.map((record) => [record.id, newId()]));
  const imported = {...conversation, id: newId(), updated: Date.now()};
  for (const node of imported.threads.flatMap((thread) => Object.values(thread.nodes))) {
    const renamed = ids.get(node.tokensOf ?? node.id);
    if (renamed) node.tokensOf = renamed;
  }
  for (const record of tokens) await saveTokens({...record, id: ids.get(record.id), conversation: imported.id});
  await saveConversation(imported);
  return imported;
}

/** Whether the rest of the page can rely on what it reads in every conversation. */
function isComplete({conversation, tokens}) {
  const nodes = conversation?.threads?.flatMap?.((thread) => Object.values(thread.nodes)) ?? [];
  return (
    typeof conversation?.title === "string" &&
    nodes.length > 0 &&
    Array.isArray(tokens) &&
    nodes.every((node) => typeof node.text === "string" && typeof node.id === "string")
  );
}

export function exportMarkdown(conversation) {
  download(`${fileName(conversation)}.md`, "text/markdown", asMarkdown(conversation));
}

export function asMarkdown(conversation) {
  const threads = shownThreads(conversation);
  const parts = [`# ${conversation.title}`];
  for (const thread of threads) {
    if (threads.length > 1) parts.push(`## ${thread.model}`);
    for (const node of pathOf(thread)) {
      const name = node.role === "user" ? (node.mode === "chat" ? "Question" : "Text") : node.model;
      parts.push(`**${name}**`, node.text.trim());
    }
  }
  return `${parts.join("\n\n")}\n`;
}

const fileName = (conversation) =>
  conversation.title
    .toLowerCase()
    .replace(/[^\p{Letter}\p{Number}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 40) || "conversation";
