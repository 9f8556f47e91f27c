/* Requests for answers, and answers as they arrive: text in the node, tokens in the record. */

import {streamEvents} from "./api.js";
import {samplingFields, systemMessage} from "./settings.js";
import {decode, fromEntry, isEnd} from "./tokens.js";
import {messagesTo} from "./thread.js";

const ALTERNATIVES = 10; // for each token

const SHARED = {truncation: "auto", return_token_ids: true, stream_options: {include_usage: true}};

/** The request that answers `question` as a chat, or continues it as a text. */
export function requestFor(thread, question, mode) {
  const body = {model: thread.model, ...samplingFields(), ...SHARED};
  if (mode === "completion") {
    return {path: "v1/completions", body: {...body, prompt: question.text, logprobs: ALTERNATIVES}};
  }
  const messages = messagesTo(thread, question, systemMessage());
  return {path: "v1/chat/completions", body: {...body, messages, logprobs: true, top_logprobs: ALTERNATIVES}};
}

/** The request that continues an answer after `tokens`, exactly where they end. */
export function requestAfter(model, promptIds, tokens) {
  const prompt = [...promptIds, ...tokens.map((token) => token.id)];
  const body = {model, ...samplingFields(), ...SHARED, prompt, logprobs: ALTERNATIVES};
  return {path: "v1/completions", body};
}

/** The text of an answer's tokens. The space before a chat's first word belongs to the template. */
export function textOf(tokens, mode) {
  const text = decode(tokens);
  return mode === "chat" ? text.replace(/^ /, "") : text;
}

export const canContinue = (node, record) =>
  ["length", "stopped"].includes(node.finish) &&
  record?.promptIds &&
  record.tokens.length > 0 &&
  !isEnd(record.tokens.at(-1));

/** Add what the server writes to `node` and `record`, and call `changed` after each piece. */
export async function writeAnswer({path, body}, {node, record, signal, changed}) {
  const start = performance.now();
  const before = node.seconds ?? 0;
  node.finish = null;
  node.error = null;
  try {
    for await (const event of streamEvents(path, body, signal)) {
      add(event, node, record);
      node.seconds = before + (performance.now() - start) / 1000;
      if (record.tokens.length && node.firstSeconds === undefined) node.firstSeconds = node.seconds;
      changed();
    }
  } catch (problem) {
    node.finish = problem.name === "AbortError" ? "stopped" : "error";
    if (node.finish === "error") node.error = problem.message;
  }
  node.numTokens = record.tokens.length;
  node.finish ??= "stopped";
  changed();
}

function add(event, node, record) {
  if (event.dropped_turns) node.droppedTurns = event.dropped_turns;
  if (event.dropped_tokens) node.droppedTokens = event.dropped_tokens;
  const choice = event.choices[0];
  record.promptIds ??= event.prompt_token_ids ?? choice?.prompt_token_ids;
  if (!choice) return;
  node.text += (choice.delta ? choice.delta.content : choice.text) || "";
  record.tokens.push(...(choice.logprobs?.content ?? []).map(fromEntry));
  node.numTokens = record.tokens.length;
  node.finish = choice.finish_reason || node.finish;
}
