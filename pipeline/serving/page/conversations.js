/* Conversations in the browser's storage (IndexedDB): texts in one table, tokens, which are large, in another. */

const NAME = "language-model-page";
let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore("conversations", {keyPath: "id"});
      opening.result.createObjectStore("tokens", {keyPath: "id"}).createIndex("conversation", "conversation");
    };
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  return opened;
}

/** Run `work` with the tables, and return the result of the request that it returns when everything is written. */
async function transact(mode, work) {
  const transaction = (await database()).transaction(["conversations", "tokens"], mode);
  const request = work(transaction.objectStore("conversations"), transaction.objectStore("tokens"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** All conversations, the newest first. */
export async function loadConversations() {
  const all = await transact("readonly", (conversations) => conversations.getAll());
  return all.sort((one, other) => other.updated - one.updated);
}

export const saveConversation = (conversation) =>
  transact("readwrite", (conversations) => conversations.put(conversation));

/** The prompt ids and tokens of an answer: {id, conversation, promptIds, tokens}. */
export const saveTokens = (record) => transact("readwrite", (_, tokens) => tokens.put(record));
export const loadTokens = (id) => transact("readonly", (_, tokens) => tokens.get(id));
export const loadTokensOf = (conversation) =>
  transact("readonly", (_, tokens) => tokens.index("conversation").getAll(conversation));

export const deleteConversation = (id) =>
  transact("readwrite", (conversations, tokens) => {
    conversations.delete(id);
    const cursors = tokens.index("conversation").openKeyCursor(id);
    cursors.onsuccess = () => {
      const cursor = cursors.result;
      if (!cursor) return;
      tokens.delete(cursor.primaryKey);
      cursor.continue();
    };
  });

/** Ask the browser not to throw the conversations away when its disk space is short. */
export const keepStorage = () => navigator.storage?.persist?.();

export function matches(conversation, words) {
  const sought = words.trim().toLowerCase();
  if (!sought) return true;
  const texts = conversation.threads.flatMap((thread) => Object.values(thread.nodes).map((node) => node.text));
  return [conversation.title, ...texts].some((text) => text.toLowerCase().includes(sought));
}
