"""An English corpus from files in every Python installation, so that the quickstart needs no downloads.

It consists of Python's help topics (`pydoc_data`) and the docstrings of the standard library and some installed
packages, read with `ast` without importing or running anything. Articles are raw JSON lines in the schema of
Wikipedia's structured contents, so they go through the same stages as Wikipedia.

    summary = write_corpus(Path("quickstart/raw"), max_bytes=9_000_000)
"""

import ast
import inspect
import json
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from utils.files import write_text

# The best prose comes first, because the corpus stops when it is large enough and may not reach the later ones.
PACKAGES = ("numpy", "matplotlib", "torch", "pandas")
LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "testing", "_vendor", "pydoc_data"} | {
    "_dynamo", "_inductor", "_functorch", "_export", "_refs", "ao", "distributed", "fx", "onnx"  # torch's internals
}  # fmt: skip
NUM_FILES = 4
# Functions with docstrings this long get their own article, besides the section in their module's article.
LONG_DOCSTRING = 600
SHORTEST_ARTICLE = 150

Part = dict[str, Any]
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


class CorpusSummary(NamedTuple):
    articles: int
    bytes: int
    source_files: int


def write_corpus(directory: Path, *, max_bytes: int, workers: int | None = None) -> CorpusSummary:
    """Write the raw files and count their contents. The same Python and packages give the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    size = 0
    num_sources = 0
    for articles in iter_source_articles(workers=workers):
        num_sources += 1
        for article in articles:
            lines.append(json.dumps({"identifier": len(lines), **article}, ensure_ascii=False))
            size += len(lines[-1].encode())
        if size >= max_bytes:
            break
    for index in range(NUM_FILES):
        text = "".join(f"{line}\n" for line in lines[index::NUM_FILES])
        write_text(directory / f"python_help_{index}.jsonl", text)
    return CorpusSummary(articles=len(lines), bytes=size, source_files=num_sources)


def iter_source_articles(*, workers: int | None = None) -> Iterator[list[Part]]:
    """Lists of articles: first the help topics, then one list per source file, without duplicates."""
    seen: set[str] = set()
    yield _without_doubles(topic_articles(), seen)
    with ProcessPoolExecutor(workers) as pool:
        try:
            for articles in pool.map(articles_of_file, *zip(*source_files(), strict=True), chunksize=8):
                yield _without_doubles(articles, seen)
        finally:
            pool.shutdown(cancel_futures=True)


def source_files() -> list[tuple[Path, str]]:
    """(file, full module name) for the standard library and the installed `PACKAGES`."""
    library, installed = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    files = [(path, library) for path in sorted(library.rglob("*.py"))]
    for package in PACKAGES:
        files += [(path, installed) for path in sorted((installed / package).rglob("*.py"))]
    return [(path, _module_name(path, root)) for path, root in files if not LEFT_OUT & {*path.relative_to(root).parts}]


def topic_articles() -> list[Part]:
    from pydoc_data.topics import topics

    return [_article(name, _split_headings(topics[name])) for name in sorted(topics)]


def articles_of_file(path: Path, module: str) -> list[Part]:
    """Articles for the module, for each documented class, and for each function with a long docstring."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in third-party strings
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    functions = [node for node in tree.body if isinstance(node, Function)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    articles = [_article(module, _node_sections(tree, functions))]
    for documented in classes:
        methods = [node for node in documented.body if isinstance(node, Function)]
        articles.append(_article(f"{module}.{documented.name}", _node_sections(documented, methods)))
    for function in functions:
        if len(ast.get_docstring(function) or "") >= LONG_DOCSTRING:
            articles.append(_article(f"{module}.{function.name}", _node_sections(function, [])))
    return [article for article in articles if len(str(article["sections"])) >= SHORTEST_ARTICLE]


def _node_sections(node: Documented, members: Iterable[Function]) -> list[Part]:
    """Sections for the docstring of a module, class or function, then one for each of its public members."""
    sections = _split_headings(ast.get_docstring(node) or "")
    for member in members:
        docstring = ast.get_docstring(member) or ""
        if docstring and not member.name.startswith("_") and len(docstring) < LONG_DOCSTRING:
            title = f"{member.name}({ast.unparse(member.args)})"
            sections.append(_section(title, _paragraphs(docstring)))
    return sections


def _article(name: str, sections: list[Part]) -> Part:
    first = next((part["value"] for section in sections for part in section["has_parts"] if part.get("value")), "")
    return {"name": name, "abstract": first, "in_language": {"identifier": "en"}, "sections": sections}


def _section(name: str, parts: list[Part]) -> Part:
    return {"type": "section", "name": name, "has_parts": parts}


def _split_headings(text: str) -> list[Part]:
    """The sections of a text with underlined headings (``Notes`` over ``-----``); the first one is the abstract."""
    lines = inspect.cleandoc(text).splitlines()
    underline = re.compile(r"([-=*~^\"])\1{2,}\s*$")
    starts = [
        i for i in range(len(lines) - 1) if underline.match(lines[i + 1]) and lines[i].strip() and lines[i][0] != " "
    ]
    starts = [i for i in starts if not underline.match(lines[i])]
    sections = [_section("Abstract", _paragraphs("\n".join(lines[: starts[0] if starts else None])))]
    for start, end in pairwise([*starts, len(lines)]):
        sections.append(_section(_plain(lines[start]), _paragraphs("\n".join(lines[start + 2 : end]))))
    return [section for section in sections if section["has_parts"]]


def _paragraphs(text: str) -> list[Part]:
    """The blocks of a text: each paragraph of prose on one line, list items as a list, code and tables unchanged."""
    parts: list[Part] = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").splitlines()
        if not lines or re.match(r"\s*\.\. ", lines[0]):  # an empty block or a directive
            continue
        if re.match(r"\s*[*-] ", lines[0]):
            items = re.split(r"\n(?=\s*[*-] )", "\n".join(lines))
            parts.append({"type": "list", "has_parts": [_list_item(item) for item in items]})
        elif lines[0].startswith((" ", ">>>")) or any(line.startswith(" ") for line in lines):
            parts.append({"type": "paragraph", "value": "\n".join(line.rstrip() for line in lines)})
        else:
            parts.append({"type": "paragraph", "value": _plain(" ".join(line.strip() for line in lines))})
    return parts


def _list_item(text: str) -> Part:
    return {"type": "list_item", "value": _plain(re.sub(r"\s+", " ", text.strip()[2:]))}


def _plain(text: str) -> str:
    """Remove reStructuredText markup: ``:func:`len` `` → ``len``."""
    text = re.sub(r":[a-z:]+:`~?\.?([^`<]+?)(?:\s*<[^>`]*>)?`", r"\1", text)
    return text.replace("``", "").replace("::", ":").replace("`", "").strip()


def _without_doubles(articles: Iterable[Part], seen: set[str]) -> list[Part]:
    """`articles` whose text is not yet in `seen`, which is updated; packages contain copies of each other's modules."""
    kept = []
    for article in articles:
        text = json.dumps(article["sections"])
        if text not in seen:
            seen.add(text)
            kept.append(article)
    return kept


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
