"""The intermediate output of a shard on disk, called a part.

A part has four files: `NAME.tokens` (uint16 stream `<s> document </s> …`), `NAME.index` (a record per document),
`NAME.removed` (the list of removed documents) and `NAME.json` (the state). The state is replaced atomically after the
others have been extended and synced, and anything beyond it is cut off when the part is extended again. A kill at any
time therefore costs one batch at most.
"""

import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.checksums import sealed, unsealed
from utils.errors import PipelineError
from utils.files import write_json

# tokens includes <s> and </s>; hash is the 128-bit hash of the normalized text in two halves.
_REMEDY = "start over with --restart"
_READ_BYTES = 4 << 20

INDEX_DTYPE = np.dtype([("tokens", "<u4"), ("bytes", "<u4"), ("characters", "<u4"), ("hash", "<u8", (2,))])


@dataclass(frozen=True)
class PartState:
    """The state of a part. `rows` counts documents read, including rejected ones; `size` is their total size in bytes.

    The checksums are CRC-32 of the part's files, up to the length in the state.
    """

    rows: int = 0
    size: int = 0
    documents: int = 0
    tokens: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    removed_bytes: int = 0
    tokens_crc: int = 0
    index_crc: int = 0
    removed_crc: int = 0
    done: bool = False


class Part:
    """The tokens of a shard on disk, extended batch by batch. Only one process may have it open."""

    def __init__(self, directory: Path, name: str) -> None:
        self._tokens_path = directory / f"{name}.tokens"
        self._index_path = directory / f"{name}.index"
        self._removed_path = directory / f"{name}.removed"
        self._state_path = directory / f"{name}.json"
        self.state = self._read_state()

    def tokens(self) -> np.ndarray:
        """The stream, uint16 (tokens,), memory-mapped."""
        if not self.state.tokens:
            return np.zeros(0, dtype=np.uint16)
        return np.memmap(self._tokens_path, dtype=np.uint16, mode="r", shape=(self.state.tokens,))

    def index(self) -> np.ndarray:
        """A record per document, `INDEX_DTYPE` (documents,)."""
        if not self.state.documents:
            return np.zeros(0, dtype=INDEX_DTYPE)
        return np.fromfile(self._index_path, dtype=INDEX_DTYPE, count=self.state.documents)

    def removed(self) -> bytes:
        """The list of removed documents, as JSON lines."""
        return self._removed_path.read_bytes()[: self.state.removed_bytes] if self.state.removed_bytes else b""

    def append(
        self,
        streams: Sequence[np.ndarray],
        index: np.ndarray,
        *,
        rows: int,
        size: int,
        rejected: Mapping[str, int],
        removed: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """Add a batch: documents' ids with BOS and EOS, their records, counts of what was read, and the list of removed
        documents."""
        _extend(self._tokens_path, self.state.tokens * 2, streams)
        _extend(self._index_path, self.state.documents * INDEX_DTYPE.itemsize, [index])
        listed = b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in removed)
        if listed:
            _extend(self._removed_path, self.state.removed_bytes, [listed])
        self._write_state(
            replace(
                self.state,
                rows=self.state.rows + rows,
                size=self.state.size + size,
                documents=self.state.documents + len(index),
                tokens=self.state.tokens + int(index["tokens"].sum()),
                removed_bytes=self.state.removed_bytes + len(listed),
                tokens_crc=_crc(streams, self.state.tokens_crc),
                index_crc=_crc([index], self.state.index_crc),
                removed_crc=zlib.crc32(listed, self.state.removed_crc),
                rejected=dict(sorted((Counter(self.state.rejected) + Counter(rejected)).items())),
            )
        )

    def finish(self) -> None:
        """Mark the shard as completely read."""
        self._write_state(replace(self.state, done=True))

    def verify(self) -> None:
        """Verify the part's files against the checksums in its state; tokens may already have been removed.

        Raises:
            PipelineError: a file is missing, too short, or damaged.
        """
        state = self.state
        files = [
            (self._index_path, state.documents * INDEX_DTYPE.itemsize, state.index_crc),
            (self._removed_path, state.removed_bytes, state.removed_crc),
        ]
        if self._tokens_path.exists():
            files.append((self._tokens_path, state.tokens * 2, state.tokens_crc))
        for path, length, expected in files:
            found = _crc_of(path, length)
            if found != expected:
                raise PipelineError(
                    f"{path} is damaged: the checksum of its first {length:,} bytes is {found:08x}, expected "
                    f"{expected:08x}; {_REMEDY}"
                )

    def remove_tokens(self) -> None:
        """Free the disk space of the stream once it is in finished files."""
        self._tokens_path.unlink(missing_ok=True)

    def _read_state(self) -> PartState:
        if not self._state_path.exists():
            return PartState()
        return PartState(**read_sealed(self._state_path))

    def _write_state(self, state: PartState) -> None:
        write_json(self._state_path, sealed(asdict(state)))
        self.state = state


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed JSON file of an unfinished dataset.

    Raises:
        PipelineError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path} is damaged: {error}; {_REMEDY}") from None
    if not isinstance(content, dict):
        raise PipelineError(f"{path} is damaged: it contains a {type(content).__name__}, expected an object; {_REMEDY}")
    return unsealed(content, origin=path, remedy=_REMEDY)


def _bytes_of(array: np.ndarray | bytes) -> memoryview:
    return memoryview(array if isinstance(array, bytes) else array.data).cast("B")


def _crc(arrays: Sequence[np.ndarray], crc: int) -> int:
    """Extend the CRC-32 `crc` of earlier bytes with `arrays`."""
    for array in arrays:
        crc = zlib.crc32(_bytes_of(array), crc)
    return crc


def _crc_of(path: Path, length: int) -> int:
    """The CRC-32 of the first `length` bytes of a file, or of all if it is shorter."""
    crc = 0
    if not length:
        return crc
    with path.open("rb") as stream:
        while block := stream.read(min(_READ_BYTES, length)):
            crc = zlib.crc32(block, crc)
            length -= len(block)
    return crc


def _extend(path: Path, length: int, arrays: Sequence[np.ndarray | bytes]) -> None:
    """Truncate `path` to `length` bytes, append `arrays`, and sync."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=1 << 20) as stream:
        stream.truncate(length)
        stream.seek(length)
        for array in arrays:
            stream.write(_bytes_of(array))
        stream.flush()
        os.fsync(stream.fileno())
