/* Requests to the server: the list of models, and streams of events. */

const KEY = "api-key"; // of this tab only

export class ApiProblem extends Error {}
export class KeyProblem extends ApiProblem {}

export const apiKey = () => sessionStorage.getItem(KEY) || "";
export const setApiKey = (key) => sessionStorage.setItem(KEY, key);

function headers() {
  const key = apiKey();
  return {"Content-Type": "application/json", ...(key && {Authorization: `Bearer ${key}`})};
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, {...options, headers: headers()});
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ApiProblem("The server is not responding.");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    throw new KeyProblem(
      apiKey() ? "The API key is wrong." : "This server requires an API key. Enter it in the settings.",
    );
  }
  const body = await response.json().catch(() => null);
  throw new ApiProblem(body?.error?.message || `The server answered with status ${response.status}.`);
}

/** The served models, each with `id`, `context_window`, `supports_chat` and `defaults`. */
export async function listModels() {
  return (await (await request("v1/models")).json()).data;
}

/** Other pages of this server, each with `name` and `path`. */
export async function listPages() {
  return (await request("pages")).json();
}

/** Yield the JSON of each server-sent event of a streamed answer. */
export async function* streamEvents(path, body, signal) {
  const response = await request(path, {method: "POST", body: JSON.stringify({...body, stream: true}), signal});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read().catch((problem) => {
      if (problem.name === "AbortError") throw problem;
      throw new ApiProblem("The connection to the server was lost.");
    });
    if (done) throw new ApiProblem("The connection to the server was lost.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiProblem(event.error.message);
      yield event;
    }
  }
}
