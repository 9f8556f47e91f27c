"""Checksums that detect damaged files before they are used.

write_json(path, sealed(content))           # the content with its checksum as the last key
content = unsealed(read, origin=path)       # PipelineError if the content has changed
write_sums(folder, ["tokenizer.json"])      # folder/SHA256SUMS, readable by `sha256sum -c`
check_sums(folder)
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import PipelineError
from utils.files import write_text

SUMS_NAME = "SHA256SUMS"
_KEY = "checksum"
_READ_BYTES = 4 << 20


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with a checksum of everything in it."""
    rest = _without_checksum(content)
    return {**rest, _KEY: _checksum(rest)}


def unsealed(content: Mapping[str, Any], *, origin: Path, remedy: str) -> dict[str, Any]:
    """`content` without its checksum; content without a checksum is returned unchanged.

    Raises:
        PipelineError: the checksum does not match.
    """
    rest = _without_checksum(content)
    if not has_valid_seal(content):
        raise PipelineError(
            f"{origin} is damaged or was edited: its {_KEY} is {content[_KEY]}, expected {_checksum(rest)}; {remedy}, "
            f"or delete the line with the {_KEY} if you edited it"
        )
    return rest


def has_valid_seal(content: Mapping[str, Any]) -> bool:
    """True if the checksum in `content` is right, or if there is none."""
    return _KEY not in content or content[_KEY] == _checksum(_without_checksum(content))


def _without_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != _KEY}


def _checksum(content: Mapping[str, Any]) -> str:
    """Independent of the JSON's indentation and key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def write_sums(directory: Path, names: Sequence[str]) -> None:
    """Write SHA256SUMS for the files `names` in `directory`."""
    write_text(directory / SUMS_NAME, "".join(f"{sha256_of(directory / name)}  {name}\n" for name in names))


def check_sums(directory: Path, *, remedy: str) -> None:
    """Verify the files listed in SHA256SUMS of `directory`, if there is one.

    Raises:
        PipelineError: a file is missing or its checksum differs.
    """
    path = directory / SUMS_NAME
    if not path.is_file():
        return
    for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        file = directory / Path(name).name
        found = sha256_of(file) if file.is_file() else "missing"
        if found != expected:
            raise PipelineError(
                f"{file} is damaged or was changed: its sha256 is {found[:16]}, but {path.name} says "
                f"{expected[:16]}; {remedy}, or delete {path} if you changed it"
            )


def sha256_of(*paths: Path) -> str:
    """The sha256 of a file, or of the concatenation of several files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()
