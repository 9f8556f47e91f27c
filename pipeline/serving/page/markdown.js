/* Markdown that grows without flicker: the text is split into blocks, and only blocks that changed are drawn again.

   Models write anything, so what comes out of the Markdown reader is cleaned by DOMPurify before it enters the page. */

import {Marked} from "./vendor/marked/marked.js";
import DOMPurify from "./vendor/dompurify/purify.js";
import hljs from "./vendor/highlight/core.js";
import {copyButton} from "./controls.js";
import {element} from "./dom.js";

const LANGUAGES = [
  "bash",
  "c",
  "cpp",
  "css",
  "diff",
  "go",
  "java",
  "javascript",
  "json",
  "markdown",
  "python",
  "rust",
  "sql",
  "xml",
  "yaml",
];
const grammars = await Promise.all(LANGUAGES.map((name) => import(`./vendor/highlight/languages/${name}.js`)));
LANGUAGES.forEach((name, index) => hljs.registerLanguage(name, grammars[index].default));

const PREFIX = "language-"; // so that a fence cannot name one of the page's own classes

const CLEAN = {
  ALLOWED_TAGS: [
    "a",
    "b",
    "blockquote",
    "br",
    "code",
    "del",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
  ],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  RETURN_DOM_FRAGMENT: true,
};

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // HTML in an answer is shown as the model wrote it.
    html: ({text}) => escapeHtml(text),
    image: ({text, href}) => escapeHtml(text || href),
    // One level below the page's own, because a model may start anywhere; the size tells them apart.
    heading({tokens, depth}) {
      return `<h2 class="depth-${depth}">${this.parser.parseInline(tokens)}</h2>`;
    },
    checkbox: ({checked}) => (checked ? "☑ " : "☐ "),
    code({text, lang}) {
      const name = (lang || "text").split(/\s/)[0];
      return `<pre><code class="${escapeHtml(PREFIX + name)}">${colour(text, name.toLowerCase())}</code></pre>`;
    },
  },
});

function escapeHtml(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

function colour(text, language) {
  return hljs.getLanguage(language) ? hljs.highlight(text, {language}).value : escapeHtml(text);
}

/** Show `text` in `container`; call it again with a longer text as often as needed. */
export function renderMarkdown(container, text) {
  const blocks = marked.lexer(text);
  const shown = container.markdownBlocks ?? [];
  let same = 0;
  while (same < shown.length && same < blocks.length && shown[same].raw === blocks[same].raw) same++;
  for (const {node} of shown.splice(same)) node.remove();
  for (const block of blocks.slice(same)) {
    const node = element("div", {class: "block"});
    node.append(draw(block));
    container.append(node);
    shown.push({raw: block.raw, node});
  }
  container.markdownBlocks = shown;
}

function draw(block) {
  const fragment = DOMPurify.sanitize(marked.parser([block]), CLEAN);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) scrollable(table, "Table");
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.firstElementChild;
    const language = code.className.slice(PREFIX.length);
    const bar = element(
      "div",
      {class: "code-bar"},
      element("span", {}, language),
      copyButton(() => code.textContent),
    );
    const box = element("div", {class: "code"});
    pre.replaceWith(box);
    box.append(bar, pre);
    pre.tabIndex = 0; // so that long lines can be scrolled with the keyboard
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", `Code, ${language}`);
  }
  return fragment;
}

function scrollable(child, label) {
  const box = element("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": label});
  child.replaceWith(box);
  box.append(child);
}
