"""The corpora for the quickstart: the tiny encyclopedia, Python's docstrings, or a folder of the user's own texts.

source = find_source("encyclopedia", config.paths, seed=0)
print(source.write())            # "4,535 articles, 10,824 conversations, 1,964 facts"
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.configuration import PathsConfig
from pipeline.demo import corpus, docstring_corpus
from pipeline.demo.docstring_questions import write_conversations
from pipeline.demo.tables import FACTS
from utils.errors import PipelineError
from utils.terminal import counted, format_bytes

RAW_FOLDER = "raw"
PYTHON_BYTES = 14_000_000
_PYTHON_SETTINGS = (
    "cleaning.markup=false",  # braces and angle brackets in docstrings are intentional
    'training.sample_prompts=["Return a list of"]',
    'sft.sample_prompts=["Tell me about email.message.Message."]',
)
_FOLDER_SETTINGS = ('training.sample_prompts=["The"]',)


@dataclass(frozen=True)
class Source:
    """A corpus.

    Args:
        fingerprint: changes if the output of `write` would change.
        raw: the input of the cleanup stage.
        settings: configuration for this text.
        write: creates the raw text and returns a short description of it.
    """

    name: str
    fingerprint: str
    raw: Path
    write: Callable[[], str]
    settings: tuple[str, ...] = ()
    conversations: Path | None = None
    questions: Path | None = None


def find_source(name: str, paths: PathsConfig, *, seed: int = 0, characters: int = corpus.NUM_CHARACTERS) -> Source:
    """The source called `name`: ``encyclopedia``, ``python``, or an existing folder.

    Raises:
        PipelineError: there is no such folder, or `paths` does not have the layout of configs/quickstart.json.
    """
    if paths.raw_dir.name != RAW_FOLDER:
        raise PipelineError(
            f"paths.raw_dir is {paths.raw_dir}; expected a folder called {RAW_FOLDER} that the quickstart can fill, "
            "as in configs/quickstart.json"
        )
    if name == "encyclopedia":
        return _encyclopedia(paths.raw_dir.parent, seed, characters)
    if name == "python":
        return _docstrings(paths.raw_dir, paths.raw_dir.parent / "conversations.jsonl")
    return _own_texts(Path(name).expanduser())


def _encyclopedia(folder: Path, seed: int, characters: int) -> Source:
    def write() -> str:
        _clear(folder / RAW_FOLDER)
        return corpus.write_corpus(folder, num_characters=characters, seed=seed).summary()

    tables = b"".join(path.read_bytes() for path in sorted(FACTS.glob("*.tsv")))
    return Source(
        name="encyclopedia",
        fingerprint=_digest([seed, characters, hashlib.sha256(tables).hexdigest()]),
        raw=folder / RAW_FOLDER,
        write=write,
        conversations=folder / "conversations.jsonl",
        questions=folder / "questions.jsonl",
    )


def _docstrings(raw: Path, conversations: Path) -> Source:
    def write() -> str:
        _clear(raw)
        summary = docstring_corpus.write_corpus(raw, max_bytes=PYTHON_BYTES)
        count = write_conversations(raw, conversations)
        return f"{summary.articles:,} articles, {format_bytes(summary.bytes)}, {count:,} conversations"

    return Source(
        name="python",
        fingerprint=_digest([PYTHON_BYTES]),
        raw=raw,
        write=write,
        settings=_PYTHON_SETTINGS,
        conversations=conversations,
    )


def _own_texts(folder: Path) -> Source:
    if not folder.is_dir():
        raise PipelineError(f"--corpus {folder} is not a folder; expected encyclopedia, python, or a folder of texts")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise PipelineError(f"{folder} is empty; expected .txt, .md, .jsonl, .parquet or .xml files")
    sizes = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    total = format_bytes(sum(size for _, size, _ in sizes))
    return Source(
        name=str(folder.absolute()),
        fingerprint=_digest(sizes),
        raw=folder.absolute(),
        write=lambda: f"{counted(len(files), 'file')}, {total}",
        settings=_FOLDER_SETTINGS,
    )


def _clear(raw: Path) -> None:
    """Remove the raw files of another corpus."""
    for path in raw.glob("*.jsonl"):
        path.unlink()


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
