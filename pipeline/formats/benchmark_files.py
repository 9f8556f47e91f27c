"""The files of the benchmark sets, for scoring (`benchmark.data_dir`) and for decontamination (`--decontaminate`).

wikitext/*.raw          one raw split, as it was published
lambada/*.jsonl         {"text": …} a line
hellaswag/*.jsonl       {"activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"} a line
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

PATTERNS = {"wikitext": "*.raw", "lambada": "*.jsonl", "hellaswag": "*.jsonl"}


def set_files(folder: Path, name: str) -> list[Path]:
    """The files of the set `name` in `folder`, sorted by name."""
    return sorted((folder / name).glob(PATTERNS[name]))


def files_sha256(paths: Iterable[Path]) -> dict[str, str]:
    """File name → sha256. A set is identified by these in contamination checks."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
