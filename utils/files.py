"""Files that are there whole or not at all.

with whole_file(path) as file:          # a binary file of a temporary name beside it
    np.save(file, array)
write_json(folder / "metadata.json", metadata)
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, forced to disk and given its name at the end; after an error nothing of it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """`content` as JSON that people can read: indented, in the order of its keys, characters as they are."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
