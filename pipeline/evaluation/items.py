"""The benchmark sets as items to score, read from files laid out as `benchmark.data_dir` is, or fetched from the hub.

    wikitext/*.raw          one raw split, as it was published
    lambada/*.jsonl         {"text": …} a line
    hellaswag/*.jsonl       {"activity_label", "ctx_a", "ctx_b", "endings", "label"} a line

How a text is split into context and continuation follows lm-evaluation-harness 0.4.13, so that figures agree.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.formats.raw_files import RawFile
from utils.errors import PipelineError

SAMPLES_DIR = Path(__file__).parent / "samples"
SETS = ("wikitext", "lambada", "hellaswag")
PRESETS = {
    "quick": {"wikitext": 50, "lambada": 20, "hellaswag": 10},
    "standard": {"wikitext": 100, "lambada": 50, "hellaswag": 20},
    "comprehensive": {"wikitext": 200, "lambada": 100, "hellaswag": 50},
    "full": {},
}


@dataclass(frozen=True)
class Page:
    """A WikiText document: `raw` is counted (words, bytes), `text` is scored."""

    raw: str

    @property
    def text(self) -> str:
        return detokenize_wikitext(self.raw)

    @property
    def num_words(self) -> int:
        return len(re.split(r"\s+", self.raw))

    @property
    def num_bytes(self) -> int:
        return len(self.raw.encode("utf-8"))


@dataclass(frozen=True)
class LastWord:
    """A LAMBADA passage; the harness's split is at the last space, the corrected one before the last word."""

    passage: str

    @property
    def at_space(self) -> tuple[str, str]:
        context, _, word = self.passage.rpartition(" ")
        return context, f" {word}"

    @property
    def at_word(self) -> tuple[str, str]:
        passage = self.passage.rstrip()
        context = passage[: len(passage) - len(passage.split()[-1])].rstrip()
        return context, passage[len(context) :]


@dataclass(frozen=True)
class Choice:
    """A HellaSwag question after the harness's clean-up."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class BenchmarkSet:
    """The items of one set. `origin` says where they are from, `files` holds each file's sha256."""

    name: str
    items: Sequence[Any]
    origin: str
    files: dict[str, str]
    total: int
    comparable: bool


def load_sets(names: Iterable[str], *, data_dir: Path | None, preset: str, offline_samples: bool) -> list[BenchmarkSet]:
    """The sets called `names`, cut down to what `preset` takes.

    Raises:
        PipelineError: a file is missing, empty or malformed, or the hub cannot be reached.
    """
    folder = SAMPLES_DIR if offline_samples else data_dir
    return [_load_set(name, folder, preset, sample=offline_samples) for name in names]


def _load_set(name: str, folder: Path | None, preset: str, *, sample: bool) -> BenchmarkSet:
    rows, files, origin = _rows_from_files(name, folder) if folder else _rows_from_hub(name)
    limit = PRESETS[preset].get(name)
    if name == "wikitext":
        # The presets count lines, as they want more of them than the set has documents.
        pages = wikitext_lines(rows) if limit else wikitext_pages(rows)
        items: list[Any] = [Page(page) for page in pages]
    elif name == "lambada":
        items = [LastWord(row["text"]) for row in rows]
    else:
        items = [hellaswag_choice(row) for row in rows]
    chosen = evenly_spaced(items, limit or len(items))
    where = "the project's own sample" if sample else origin
    return BenchmarkSet(name, chosen, where, files, len(items), comparable=not sample and limit is None)


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of `items`, the same ones every time, from the beginning to the end; all where there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def wikitext_pages(text: str) -> list[str]:
    """The documents of a raw split: each begins at a line ``= Title =``; what stands before the first is one too."""
    pages, lines = [], []
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            pages.append("\n".join(lines))
            lines = []
        lines.append(line)
    # The harness's copy of the set leaves blank documents out, except that the last one always counts.
    return [page for page in pages if page.strip()] + ["\n".join(lines)]


def wikitext_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


_WIKITEXT_REPLACEMENTS = (
    (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
    (" : ", ": "), (" ; ", "; "), (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", "),
)  # fmt: skip
_WIKITEXT_PAIRS = (
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
)
_WIKITEXT_REST = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°"),
    (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


def detokenize_wikitext(text: str) -> str:
    """WikiText's spaced punctuation as people write it: the harness's replacements, in its order."""
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for found, replacement in _WIKITEXT_REPLACEMENTS:
        text = text.replace(found, replacement)
    for pattern, replacement in _WIKITEXT_PAIRS:
        text = re.sub(pattern, replacement, text)
    for found, replacement in _WIKITEXT_REST:
        text = text.replace(found, replacement)
    return text


def hellaswag_choice(row: dict[str, Any]) -> Choice:
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = tuple(clean_hellaswag(ending) for ending in row["endings"])
    return Choice(clean_hellaswag(context), endings, int(row["label"]))


def clean_hellaswag(text: str) -> str:
    """Without WikiHow's bracketed marks, as the harness removes them."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _rows_from_files(name: str, folder: Path) -> tuple[Any, dict[str, str], str]:
    pattern = "*.raw" if name == "wikitext" else "*.jsonl"
    paths = sorted((folder / name).glob(pattern))
    if name == "wikitext" and len(paths) > 1:
        paths = [path for path in paths if "test" in path.name][:1] or paths[:1]
    if not paths:
        raise PipelineError(
            f"benchmark.data_dir {folder} has no {name}/{pattern}; put the set there, or leave the key null to fetch it"
        )
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    if name == "wikitext":
        rows: Any = _read_text(paths[0])
    else:
        rows = [row for path in paths for row in _read_jsonl(path, _CHECKS[name])]
    return rows, files, ", ".join(f"{name}/{path.name}" for path in paths)


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8")  # read_text would turn a carriage return into the end of a line
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path} is not UTF-8 at byte {error.start:,}; expected the raw split as published"
        ) from None
    if not text.strip():
        raise PipelineError(f"{path} is empty; expected the raw split as published")
    return text


def _read_jsonl(path: Path, problem_of: Any) -> list[dict[str, Any]]:
    rows = []
    with RawFile(path) as file:
        for number, row, problem, _ in file.records():
            problem = problem if row is None else problem_of(row)
            if problem:
                raise PipelineError(f"{path}, line {number}: {problem}")
            rows.append(row)
    if not rows:
        raise PipelineError(f"{path} is empty; expected one item a line")
    return rows


def _lambada_problem(row: dict[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        return f"text is {text!r}; expected a passage"
    return "" if len(text.split()) > 1 and " " in text.strip() else f"text {text!r} has no last word to guess"


def _hellaswag_problem(row: dict[str, Any]) -> str:
    for key in ("activity_label", "ctx_a", "ctx_b"):
        if not isinstance(row.get(key), str):
            return f"{key} is {row.get(key)!r}; expected text"
    endings = row.get("endings")
    if not (isinstance(endings, list) and len(endings) > 1 and all(isinstance(each, str) and each for each in endings)):
        return f"endings is {endings!r}; expected two or more texts"
    label = str(row.get("label"))
    if not (label.isdecimal() and int(label) < len(endings)):
        return f"label is {row.get('label')!r}; expected the number of the right ending, from 0"
    return ""


_CHECKS = {"lambada": _lambada_problem, "hellaswag": _hellaswag_problem}
_HUB = {
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1", "test"),
    "lambada": ("EleutherAI/lambada_openai", "default", "test"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
}


def _rows_from_hub(name: str) -> tuple[Any, dict[str, str], str]:
    """Fetched once by `datasets`, which keeps it."""
    from datasets import load_dataset

    repository, configuration, split = _HUB[name]
    try:
        rows = load_dataset(repository, configuration, split=split)
    except Exception as error:  # requests, hub and parsing errors of a library that has no common base for them
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"{repository} cannot be fetched from the hub ({reason}); give a folder with the sets: --data-dir DIR, "
            "or score the project's own small sample: --offline-samples"
        ) from None
    rows = "".join(row["text"] for row in rows) if name == "wikitext" else list(rows)
    return rows, {}, f"{repository} ({split}) from the hub"
