"""The token dataset on disk: its names and its only reader. docs/formats.md describes the format.

    dataset = TokenDataset.open("data/tokenized_datasets/codellama_test_dataset")
    dataset.num_windows, dataset.num_tokens
    dataset[0]                  # the first window, a view of the memory-mapped stream, uint16
    dataset.files[0]            # the whole stream of tokens_0.npy

Needs NumPy and nothing else. `preparation.writer` makes such a folder.
"""

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import PipelineError

FORMAT_VERSION = 1
METADATA_NAME = "metadata.json"
MAX_VOCAB_SIZE = 65_536  # what uint16 can tell apart
_READ_BYTES = 4 << 20


def token_file_name(index: int) -> str:
    return f"tokens_{index}.npy"


def num_windows(num_tokens: int, window: int, stride: int) -> int:
    """Windows over a stream: one every `stride` tokens, and a last one that ends at the stream's end."""
    return 0 if num_tokens < window else -(-(num_tokens - window) // stride) + 1


def window_starts(num_tokens: int, window: int, stride: int) -> np.ndarray:
    """Where each window of a stream begins, int64 (num_windows,). Only the last may overlap its neighbour by more."""
    starts = np.arange(num_windows(num_tokens, window, stride), dtype=np.int64) * stride
    return np.minimum(starts, num_tokens - window)


@dataclass(frozen=True)
class TokenDataset:
    """A finished token dataset, memory-mapped.

    `files` are one-dimensional streams, or two-dimensional arrays with a window a row as older tools wrote them;
    `window` and `stride` are in tokens.
    """

    directory: Path
    metadata: dict[str, Any]
    files: Sequence[np.ndarray]
    window: int
    stride: int

    @classmethod
    def open(
        cls, directory: str | Path, *, window: int | None = None, stride: int | None = None, command: str = ""
    ) -> "TokenDataset":
        """The dataset in `directory`, windowed as its metadata says unless `window` and `stride` are given.

        Args:
            command: what makes this dataset, named where it is not complete.

        Raises:
            PipelineError: no metadata.json; a file missing, cut short, of another type or shorter than a window.
        """
        directory = Path(directory)
        metadata = read_metadata(directory, command=command)
        files = _open_files(directory, metadata)
        legacy = files[0].ndim == 2
        window = files[0].shape[1] if legacy else window or metadata.get("window")
        stride = window if legacy else stride or metadata.get("stride")
        if not (window and stride):
            raise PipelineError(f"{directory / METADATA_NAME} names no window and stride; say them in the config")
        dataset = cls(directory, metadata, tuple(files), window, stride)
        dataset._refuse_short_files()
        return dataset

    @property
    def is_windowed(self) -> bool:
        """True where the arrays hold one window a row (older tools), so that the window cannot be chosen."""
        return self.files[0].ndim == 2

    @property
    def num_tokens(self) -> int:
        return sum(tokens.size for tokens in self.files)

    @property
    def num_windows(self) -> int:
        return self._window_ends[-1]

    def windows_of(self, file: int) -> int:
        """Windows in one file."""
        tokens = self.files[file]
        return len(tokens) if tokens.ndim == 2 else num_windows(len(tokens), self.window, self.stride)

    def starts_of(self, file: int) -> np.ndarray:
        """Where each window of one file begins in that file's flat stream, int64 (windows,)."""
        if self.is_windowed:
            return np.arange(len(self.files[file]), dtype=np.int64) * self.window
        return window_starts(len(self.files[file]), self.window, self.stride)

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> np.ndarray:
        """Window `index` over all files, uint16 (window,): a view, nothing is copied."""
        if not 0 <= index < self.num_windows:
            raise IndexError(f"window {index} of {self.num_windows}")
        file = bisect_right(self._window_ends, index)
        index -= self._window_ends[file - 1] if file else 0
        tokens = self.files[file]
        if tokens.ndim == 2:
            return tokens[index]
        start = min(index * self.stride, len(tokens) - self.window)
        return tokens[start : start + self.window]

    @cached_property
    def fingerprint(self) -> str:
        """Names the data: sha256 over the files' sha256 in order. Checkpoints keep it."""
        sums = [entry["sha256"] for entry in self.metadata.get("files", []) if "sha256" in entry]
        return hashlib.sha256("\n".join(sums or map(_legacy_sum, self.files)).encode()).hexdigest()

    def damaged_files(self) -> list[str]:
        """Names of files whose bytes no longer have the sha256 of the metadata; reads everything."""
        entries = self.metadata.get("files", [])
        return [each["name"] for each in entries if file_sha256(self.directory / each["name"]) != each["sha256"]]

    @cached_property
    def _window_ends(self) -> list[int]:
        return list(accumulate(self.windows_of(file) for file in range(len(self.files))))

    def _refuse_short_files(self) -> None:
        for index, tokens in enumerate(self.files):
            if self.windows_of(index) == 0:
                name = self.directory.name
                raise PipelineError(
                    f"{name}/{token_file_name(index)} holds {tokens.size} tokens, fewer than one window of "
                    f"{self.window}; prepare more text, or take a shorter window with --set dataset.window=N"
                )


def read_metadata(directory: Path, *, command: str = "") -> dict[str, Any]:
    """metadata.json of a complete dataset.

    Raises:
        PipelineError: there is none, or it is not what a dataset's metadata looks like.
    """
    path = directory / METADATA_NAME
    hint = f"run: {command}" if command else "run: python3 dataset_prep.py (or fineweb_prep.py)"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = "is not complete: it has no metadata.json" if directory.is_dir() else "does not exist"
        raise PipelineError(f"token dataset {directory} {state}; {hint}") from None
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read: {error}; {hint}") from None
    version = metadata.get("format_version", FORMAT_VERSION) if isinstance(metadata, dict) else None
    if version != FORMAT_VERSION:
        raise PipelineError(f"{path} has format version {version!r}; wanted: {FORMAT_VERSION}; {hint}")
    return metadata


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, or an empty string where there is no such file."""
    if not path.exists():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _open_files(directory: Path, metadata: dict[str, Any]) -> list[np.ndarray]:
    entries = metadata.get("files")
    if "format_version" not in metadata or not isinstance(entries, list):
        return _open_legacy_files(directory)
    files = []
    for entry in entries:
        tokens = _map_file(directory / entry["name"])
        if tokens.ndim != 1 or len(tokens) != entry["tokens"]:
            raise PipelineError(
                f"{directory.name}/{entry['name']} has shape {tokens.shape}; metadata.json says {entry['tokens']} "
                "tokens; make the dataset anew with --restart"
            )
        files.append(tokens)
    return files


def _open_legacy_files(directory: Path) -> list[np.ndarray]:
    """`tokens_*.npy` in the order of their numbers; all must have rows of one length, or none."""
    paths = [path for path in directory.glob("tokens_*.npy") if re.fullmatch(r"tokens_\d+", path.stem)]
    files = [_map_file(path) for path in sorted(paths, key=lambda path: int(path.stem.removeprefix("tokens_")))]
    if not files:
        raise PipelineError(f"token dataset {directory} holds no tokens_*.npy; make it with python3 dataset_prep.py")
    shapes = {tokens.shape[1:] for tokens in files}
    if len(shapes) > 1 or files[0].ndim > 2:
        raise PipelineError(f"token dataset {directory} mixes arrays of different shapes: {sorted(shapes)}")
    return files


def _map_file(path: Path) -> np.ndarray:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"token file {path} cannot be read: {error}; make the dataset anew with --restart"
        ) from None
    if tokens.dtype != np.uint16:
        raise PipelineError(f"token file {path} holds {tokens.dtype}; wanted: uint16")
    return tokens


def _legacy_sum(tokens: np.ndarray) -> str:
    """Older datasets keep no sha256: shape and the first and last thousand tokens tell them apart."""
    flat = tokens.reshape(-1)
    return f"{tokens.shape}{hashlib.sha256(flat[:1000].tobytes() + flat[-1000:].tobytes()).hexdigest()}"
