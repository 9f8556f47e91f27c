"""The input files of a dataset: names, sizes, and whether they have changed since they were read.

metadata.json has a hash of each file's content. The side file `input_times.json` has its modification time, so that
unchanged input need not be read again. A copy has different times and is recognized by its content.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.preparation.input_shards import Shard
from utils.checksums import sha256_of
from utils.files import write_json

TIMES_NAME = "input_times.json"


@dataclass(frozen=True)
class InputFile:
    """`modified` identifies a version of the file; `paths` is empty for a file on the hub.

    Files with the same name in several folders count as one, so there may be several paths.
    """

    name: str
    size: int
    modified: str
    paths: Sequence[Path]

    def content(self) -> str:
        """A hash of the content: the sha256 of the bytes, or the hub's hash."""
        if not self.paths:
            return f"hub:{self.modified}"
        return f"sha256:{sha256_of(*self.paths)}"


def input_files(shards: Iterable[Shard]) -> list[InputFile]:
    """The files of `shards`, in order."""
    pieces: dict[str, list[Shard]] = {}
    for shard in shards:
        pieces.setdefault(shard.source, []).append(shard)
    return [
        InputFile(
            name,
            size=sum(shard.size for shard in group),
            modified=" ".join(dict.fromkeys(shard.modified for shard in group)),
            paths=tuple(dict.fromkeys(shard.path for shard in group if shard.path)),
        )
        for name, group in pieces.items()
    ]


def described(files: Sequence[InputFile], *, read: set[str], workers: int) -> list[dict[str, Any]]:
    """The metadata entries of `files`; content hashes only for those in `read`, which affect the dataset."""
    with ThreadPoolExecutor(workers) as threads:
        contents = threads.map(lambda file: file.content() if file.name in read else None, files)
        facts = [
            {"name": file.name, "bytes": file.size, "content": content}
            for file, content in zip(files, contents, strict=True)
        ]
    return [{key: value for key, value in entry.items() if value is not None} for entry in facts]


def write_times(directory: Path, files: Sequence[InputFile]) -> None:
    """Write the side file unless it is already up to date."""
    times = {file.name: file.modified for file in files}
    if times != _read_times(directory):
        write_json(directory / TIMES_NAME, times)


def changed_files(directory: Path, files: Sequence[InputFile], made_of: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of files that differ from `made_of` in the metadata; content is read only if times differ."""
    times = _read_times(directory)
    contents = {entry.get("name"): entry.get("content") for entry in made_of}
    return [
        file.name
        for file in files
        if contents.get(file.name) and times.get(file.name) != file.modified and file.content() != contents[file.name]
    ]


def _read_times(directory: Path) -> dict[str, Any]:
    """Empty if the file is missing or damaged; then contents are compared."""
    try:
        times = json.loads((directory / TIMES_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return times if isinstance(times, dict) else {}
