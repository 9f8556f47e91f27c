/* Conversations as files: JSON with every version and token, Markdown with what is on the screen. */

import {download} from "./dom.js";
import {loadTokensOf} from "./conversations.js";
import {pathOf, shownThreads} from "./thread.js";

export async function exportJson(conversation) {
  const tokens = await loadTokensOf(conversation.id);
  const content = {format: "language-model-conversation", version: 1, conversation, tokens};
  download(`${fileName(conversation)}.json`, "application/json", `${JSON.stringify(content, null, 1)}\n`);
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
  conversation.title.toLowerCase().replace(/[^\p{Letter}\p{Number}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "conversation";
