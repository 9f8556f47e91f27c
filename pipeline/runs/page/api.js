/* Requests to the server: data as JSON, and a stream of changes. */

const KEY = "api-key"; // of this tab only, shared with the chat page

export class KeyProblem extends Error {}

export const setApiKey = (key) => sessionStorage.setItem(KEY, key);

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? {Authorization: `Bearer ${key}`} : {};
}

async function request(path, query = [], options = {}) {
  const search = new URLSearchParams(query).toString();
  const response = await fetch(`runs/api/${path}${search && `?${search}`}`, {...options, headers: headers()});
  if (response.status === 401) throw new KeyProblem();
  return response;
}

/** The JSON answer, or null if the run is gone. */
export async function load(path, query) {
  const response = await request(path, query);
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`the server answered with status ${response.status}`);
  return response.json();
}

/** Call `onEvent(name, data)` for every event, and `onState(connected)`; reconnects until the page is closed. */
export async function follow(onEvent, onState) {
  for (;;) {
    try {
      const response = await request("events", [], {cache: "no-store"});
      if (!response.ok) throw new Error(`status ${response.status}`);
      onState(true);
      await readEvents(response.body.getReader(), onEvent);
    } catch (problem) {
      if (problem instanceof KeyProblem) throw problem;
    }
    onState(false);
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

async function readEvents(reader, onEvent) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += decoder.decode(value, {stream: true});
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s).slice(0, 2)));
      if (fields.event) onEvent(fields.event, JSON.parse(fields.data));
    }
  }
}
