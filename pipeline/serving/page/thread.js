/* A conversation as a tree. Editing a question or writing an answer again adds a version next to the old one, and
   nothing is lost. A conversation has one thread, or two if checkpoints are compared.

   thread: {model, nodes: {id: node}, chosen: {parent id or "": the child on the path}}
   node:   {id, parent, role: "user" | "assistant", mode: "chat" | "completion", text, …} */

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");

export function newConversation(models) {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    threads: models.map(newThread),
    comparing: models.length > 1,
  };
}

export const newThread = (model) => ({model, nodes: {}, chosen: {}});

/** The threads on the screen. */
export const shownThreads = (conversation) => conversation.threads.slice(0, conversation.comparing ? 2 : 1);

export function addNode(thread, parent, fields) {
  const node = {id: newId(), parent: parent?.id ?? "", created: Date.now(), ...fields};
  thread.nodes[node.id] = node;
  thread.chosen[node.parent] = node.id;
  return node;
}

/** The nodes from the first question to the newest answer, along the chosen versions. */
export function pathOf(thread) {
  const path = [];
  let next = thread.nodes[thread.chosen[""]];
  while (next) {
    path.push(next);
    next = thread.nodes[thread.chosen[next.id]];
  }
  return path;
}

/** The path down to `node`, which is on it. */
export function pathTo(thread, node) {
  const path = [];
  for (let at = node; at; at = thread.nodes[at.parent]) path.unshift(at);
  return path;
}

/** `node` and its siblings, the oldest first. */
export const versionsOf = (thread, node) =>
  Object.values(thread.nodes)
    .filter((other) => other.parent === node.parent)
    .sort((one, other) => one.created - other.created);

export function chooseVersion(thread, node) {
  thread.chosen[node.parent] = node.id;
}

/** The messages of a chat down to `question`. Texts that were only continued are not part of it. */
export function messagesTo(thread, question, system) {
  const messages = system ? [{role: "system", content: system}] : [];
  const path = pathTo(thread, question);
  for (let index = 0; index < path.length - 1; index++) {
    const [asked, answer] = [path[index], path[index + 1]];
    if (asked.role === "user" && asked.mode === "chat" && answer.role === "assistant" && answer.text.trim()) {
      messages.push({role: "user", content: asked.text}, {role: "assistant", content: answer.text});
    }
  }
  return [...messages, {role: "user", content: question.text}];
}

/** Give `thread` the questions and answers of `source` from where their questions begin to differ. */
export function follow(thread, source) {
  const ours = pathOf(thread);
  const theirs = pathOf(source);
  let shared = 0;
  while (
    shared < theirs.length &&
    ours[shared]?.role === theirs[shared].role &&
    (theirs[shared].role === "assistant" || ours[shared].text === theirs[shared].text)
  )
    shared++;
  let parent = ours[shared - 1];
  if (parent) delete thread.chosen[parent.id];
  else delete thread.chosen[""];
  for (const node of theirs.slice(shared)) {
    const {id, parent: _, ...fields} = node;
    parent = addNode(thread, parent, {...fields, tokensOf: node.tokensOf ?? id});
  }
}

/** The question at the same place with the same text, in another thread; undefined if there is none. */
export function counterpart(thread, other, question) {
  const node = pathOf(other)[pathTo(thread, question).length - 1];
  return node?.role === "user" && node.text === question.text ? node : undefined;
}
