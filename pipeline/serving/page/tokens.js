/* Tokens as the page keeps them: an id, its bytes, its probability, the entropy, and the alternatives.

   A character can span several tokens, so text is decoded from the joined bytes. */

/** An entry of the server's `logprobs.content`. */
export function fromEntry(entry) {
  return {
    id: entry.id,
    bytes: entry.bytes,
    logprob: entry.logprob,
    entropy: entry.entropy,
    top: entry.top_logprobs.map(({id, bytes, logprob}) => ({id, bytes, logprob})),
  };
}

/** The same place in the text with one of the alternatives. */
export const withAlternative = (token, alternative) => ({...token, ...alternative});

export function decode(tokens) {
  const bytes = new Uint8Array(tokens.flatMap((token) => token.bytes));
  // stream: a character whose last bytes are missing is left out; the server sends all of it with the next token
  return new TextDecoder("utf-8").decode(bytes, {stream: true});
}

export const isEnd = (token) => token.bytes.length === 0;

/** A token's own text, with what cannot be seen made visible. */
export function visible(token) {
  if (isEnd(token)) return "⟨end of text⟩";
  let text;
  try {
    text = new TextDecoder("utf-8", {fatal: true}).decode(new Uint8Array(token.bytes));
  } catch {
    const hex = token.bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0"));
    return `⟨${hex.join(" ")}⟩`;
  }
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

export const probability = (token) => Math.exp(token.logprob);
export const bits = (nats) => nats / Math.LN2;

export function percent(share) {
  if (share >= 0.9995) return "> 99.9 %";
  if (share < 0.0001) return "< 0.01 %";
  return `${(share * 100).toFixed(share < 0.01 ? 2 : share < 0.1 || share > 0.99 ? 1 : 0)} %`;
}

/** How surprising an answer was for its model, as a whole. */
export function summary(tokens) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const perplexity = Math.exp(-mean(tokens.map((token) => token.logprob)));
  const entropy = bits(mean(tokens.map((token) => token.entropy)));
  return `perplexity ${perplexity.toPrecision(3)} · mean entropy ${entropy.toFixed(2)} bits`;
}
