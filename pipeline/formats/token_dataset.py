"""The reader of token datasets, and their file names. docs/formats.md describes the format.

    dataset = TokenDataset.open("data/tokenized_datasets/codellama_test_dataset")
    dataset.num_windows, dataset.num_tokens
    dataset[0]                  # the first window, a view of the memory-mapped stream, uint16
    dataset.files[0]            # the whole stream of tokens_0.npy

Needs only NumPy. `dataset_writer.py` creates these folders; arrays of rows from older tools can be read too.
"""

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from tokenize import TokenError
from typing import Any, NoReturn

import numpy as np

from pipeline.quickstart_hint import or_quickstart
from utils.arithmetic import ceil_div
from utils.checksums import has_valid_seal, sealed, sha256_of
from utils.errors import PipelineError
from utils.files import write_json

FORMAT_VERSION = 1
METADATA_NAME = "metadata.json"
# What NumPy raises for an .npy file whose header or length is damaged; the header is parsed as Python.
DAMAGED_ARRAY_ERRORS = (OSError, ValueError, TypeError, OverflowError, SyntaxError, TokenError)
MAX_VOCAB_SIZE = 65_536  # ids that fit in uint16
_CHECKED_TOKENS = 1 << 24
_TOKEN_FILE = re.compile(r"tokens_(\d+)\.npy")
# The types of the values in metadata.json, and in its file entries.
_KEYS = {
    "tokenizer": dict,
    "vocab_size": int,
    "window": int,
    "stride": int,
    "totals": dict,
    "compression": dict,
    "rejected": dict,
    "config": dict,
    "inputs": list,
    "files": list,
    "near_duplicates": dict,
    "token_byte_lengths": list,
}
_EARLIER_SEAL = "sha256"  # what earlier versions called the checksum of the metadata
_FILE_KEYS = {"name": str, "tokens": int, "sha256": str}


def token_file_name(index: int) -> str:
    return f"tokens_{index}.npy"


def is_token_file(path: Path) -> bool:
    """True for names created by `token_file_name`."""
    return _TOKEN_FILE.fullmatch(path.name) is not None


def num_windows(num_tokens: int, window: int, stride: int) -> int:
    """Windows over a stream: one every `stride` tokens, and a last one that ends at the end of the stream."""
    return 0 if num_tokens < window else ceil_div(num_tokens - window, stride) + 1


def window_starts(num_tokens: int, window: int, stride: int) -> np.ndarray:
    """The start of each window in a stream, int64 (num_windows,). Only the last may overlap its neighbour by more."""
    starts = np.arange(num_windows(num_tokens, window, stride), dtype=np.int64) * stride
    return np.minimum(starts, num_tokens - window)


@dataclass(frozen=True, repr=False)
class TokenDataset:
    """A complete token dataset, memory-mapped.

    `files` are one-dimensional streams, or two-dimensional arrays from older tools with one window per row; `names` are
    their file names. `window` and `stride` are in tokens, and ids are below `vocab_size`. `metadata` is empty if it is
    from another tool.
    """

    directory: Path
    metadata: dict[str, Any]
    files: Sequence[np.ndarray]
    names: Sequence[str]
    window: int
    stride: int
    vocab_size: int = MAX_VOCAB_SIZE

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        window: int | None = None,
        stride: int | None = None,
        vocab_size: int | None = None,
        command: str = "",
    ) -> "TokenDataset":
        """Open the dataset in `directory`, with the windows in its metadata unless `window` and `stride` are given.

        Args:
            vocab_size: the model's; None: from the metadata.
            command: the command that creates this dataset, for the error if it is incomplete.

        Raises:
            PipelineError: no metadata.json, or a file is missing, truncated, of the wrong type or shorter than a
                window.
        """
        directory = Path(directory)
        content = read_metadata(directory, command=command)
        own = "format_version" in content
        files = _open_listed_files(directory, content) if own else _open_found_files(directory)
        arrays = list(files.values())
        rows = arrays[0].ndim == 2
        window = arrays[0].shape[1] if rows else window or content.get("window")
        stride = window if rows else stride or content.get("stride")
        if not (window and stride):
            raise PipelineError(f"{directory / METADATA_NAME} does not specify a window and stride; set dataset.window")
        vocab_size = vocab_size or content.get("vocab_size") or MAX_VOCAB_SIZE
        dataset = cls(directory, content if own else {}, tuple(arrays), tuple(files), window, stride, vocab_size)
        dataset._refuse_short_files()
        return dataset

    def __repr__(self) -> str:
        return f"TokenDataset({str(self.directory)!r}, {self.num_tokens:,} tokens, windows of {self.window})"

    @property
    def is_windowed(self) -> bool:
        """True if the arrays have one window per row (from older tools), which fixes the window."""
        return self.files[0].ndim == 2

    @property
    def is_foreign(self) -> bool:
        """True if metadata.json is from another tool; then only window and stride are used."""
        return not self.metadata

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
        """The start of each window of a file in its flat stream, int64 (windows,)."""
        if self.is_windowed:
            return np.arange(len(self.files[file]), dtype=np.int64) * self.window
        return window_starts(len(self.files[file]), self.window, self.stride)

    def __len__(self) -> int:
        return self.num_windows

    def __getitem__(self, index: int) -> np.ndarray:
        """Window `index` over all files, uint16 (window,), as a view."""
        if not 0 <= index < self.num_windows:
            raise IndexError(f"window {index} of {self.num_windows}")
        file = bisect_right(self._window_ends, index)
        if file > 0:
            index -= self._window_ends[file - 1]  # within the file
        tokens = self.files[file]
        if tokens.ndim == 2:
            row: np.ndarray = tokens[index]
            return row
        start = min(index * self.stride, len(tokens) - self.window)
        return tokens[start : start + self.window]

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the data: the sha256 of the files' sha256 in order. Stored in checkpoints."""
        sums = [entry["sha256"] for entry in self.metadata.get("files", [])]
        return hashlib.sha256("\n".join(sums or map(_sum_of_ends, self.files)).encode()).hexdigest()

    def damaged_files(self) -> Iterator[str]:
        """The names of files that no longer match their sha256 in the metadata; reads everything, file by file."""
        for entry in self.metadata.get("files", []):
            path = self.directory / entry["name"]
            if not path.exists() or sha256_of(path) != entry["sha256"]:
                yield entry["name"]

    def refuse_unknown_ids(self, tokens: np.ndarray) -> None:
        """Raise PipelineError if `tokens`, read from this dataset, has an id outside the vocabulary."""
        if tokens.size and tokens.max() >= self.vocab_size:
            self.check_ids()

    def check_ids(self) -> None:
        """Read everything and check that all ids are in the vocabulary.

        Raises:
            PipelineError: one is not; the message has its file and position.
        """
        for name, tokens in zip(self.names, self.files, strict=True):
            flat = tokens.reshape(-1)
            for start in range(0, flat.size, _CHECKED_TOKENS):
                block = flat[start : start + _CHECKED_TOKENS]
                if block.max() >= self.vocab_size:
                    position = start + int(np.argmax(block >= self.vocab_size))
                    raise PipelineError(
                        f"{self.directory / name} contains token id {flat[position]} at position {position:,}; "
                        f"expected ids below the vocabulary size of {self.vocab_size:,}; use the tokenizer and "
                        "model that match this dataset (model.vocab_size), or prepare the dataset again"
                    )

    @cached_property
    def _window_ends(self) -> list[int]:
        return list(accumulate(self.windows_of(file) for file in range(len(self.files))))

    def _refuse_short_files(self) -> None:
        for index, tokens in enumerate(self.files):
            if self.windows_of(index) == 0:
                raise PipelineError(
                    f"{self.directory.name}/{self.names[index]} has {tokens.size} tokens, fewer than one window of "
                    f"{self.window}; prepare more text, or use a shorter window with --set dataset.window=N"
                )


def read_metadata(directory: Path, *, command: str = "") -> dict[str, Any]:
    """metadata.json of a complete dataset; only `window` and `stride` if it is from another tool.

    Raises:
        PipelineError: there is none, or it is ours and damaged.
    """
    path = directory / METADATA_NAME
    hint = f"run: {command or 'python3 dataset_prep.py (or fineweb_prep.py)'}"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        state = "is incomplete: it has no metadata.json" if directory.is_dir() else "does not exist"
        raise PipelineError(f"token dataset {directory} {state}; {hint}{or_quickstart(directory)}") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}; {hint}") from None
    try:
        content = json.loads(text)
        problem = _metadata_problem(content)
    except (ValueError, RecursionError) as error:
        content, problem = None, f"is not valid JSON ({error})"
    if isinstance(content, dict) and "format_version" in content and not problem:
        return content
    if problem and not _holds_rows(directory):  # only our own datasets are one-dimensional and need it
        raise PipelineError(f"{path} {problem}; {hint} --restart")
    return _hints(content)


@dataclass(frozen=True)
class PreparedWindows:
    """The windows a dataset was prepared with, or None if unknown. `is_fixed`: its arrays are rows."""

    window: int | None
    stride: int | None = None
    overlap: float | None = None
    is_fixed: bool = False


def prepared_windows(directory: Path) -> PreparedWindows:
    """The windows of a complete dataset.

    Raises:
        PipelineError: as in `read_metadata`.
    """
    content = read_metadata(directory)
    if "format_version" not in content and _holds_rows(directory):
        return PreparedWindows(_map_file(_found_paths(directory)[0]).shape[1], is_fixed=True)
    overlap = content.get("config", {}).get("overlap")
    declared = overlap if isinstance(overlap, float) and 0 <= overlap < 1 else None
    return PreparedWindows(content.get("window"), content.get("stride"), declared)


def write_metadata(directory: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata.json, sealed with a checksum of its content."""
    content = {key: value for key, value in metadata.items() if key != _EARLIER_SEAL}
    write_json(directory / METADATA_NAME, sealed(content))


def _has_valid_seal(content: Mapping[str, Any]) -> bool:
    rest = {key: value for key, value in content.items() if key != _EARLIER_SEAL}
    earlier = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return has_valid_seal(content) and content.get(_EARLIER_SEAL) in (None, earlier)


def _metadata_problem(content: object) -> str:
    """The problem with metadata in our format, or an empty string; metadata from other tools is not checked."""
    if not isinstance(content, dict) or "format_version" not in content:
        return ""
    if content["format_version"] != FORMAT_VERSION:
        return f"has format version {content['format_version']!r}, expected {FORMAT_VERSION}"
    problem = _type_problem(content, _KEYS, required=("window", "stride", "files"))
    if problem:
        return problem
    for key in ("totals", "rejected"):
        if not all(type(value) is int for value in content.get(key, {}).values()):
            return f"is damaged: {key!r} is {content[key]!r:.60}, expected numbers"
    if min(content["window"], content["stride"], len(content["files"])) < 1:
        return "is damaged: it has no window, stride or files"
    for entry in content["files"]:
        problem = _type_problem(entry, _FILE_KEYS, required=_FILE_KEYS)
        if problem or not _TOKEN_FILE.fullmatch(entry["name"]):
            return problem or f"is damaged: it lists a file {entry['name']!r}, expected tokens_N.npy"
    if not _has_valid_seal(content):
        return "is damaged: its content does not match its checksum"
    return ""


def _type_problem(content: object, types: Mapping[str, type], *, required: Iterable[str]) -> str:
    if not isinstance(content, dict):
        return f"is damaged: it has {content!r:.40} instead of a file entry"
    for key, expected in types.items():
        value = content.get(key)
        if (value is None and key in required) or not (value is None or type(value) is expected):
            return f"is damaged: {key!r} is {value!r:.40}, expected {expected.__name__}"
    return ""


def _hints(content: object) -> dict[str, Any]:
    keys = content if isinstance(content, dict) else {}
    return {key: keys[key] for key in ("window", "stride") if type(keys.get(key)) is int and keys[key] > 0}


def _holds_rows(directory: Path) -> bool:
    paths = _found_paths(directory)
    return bool(paths) and _map_file(paths[0]).ndim == 2


def _open_listed_files(directory: Path, metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    files: dict[str, np.ndarray] = {}
    for entry in metadata["files"]:
        name = entry["name"]
        expected = entry["tokens"]
        tokens = _map_file(directory / name)
        if tokens.shape != (expected,):
            _refuse_file(directory / name, f"has shape {tokens.shape}, but metadata.json says {expected} tokens")
        # np.load ignores bytes after the array.
        extra = (directory / name).stat().st_size - tokens.offset - tokens.nbytes
        if extra:
            _refuse_file(directory / name, f"has {extra} extra bytes after the tokens")
        files[name] = tokens
    return files


def _open_found_files(directory: Path) -> dict[str, np.ndarray]:
    """`tokens_*.npy` sorted by number. Either all have rows of the same length, or none has rows."""
    files: dict[str, np.ndarray] = {path.name: _map_file(path) for path in _found_paths(directory)}
    if not files:
        raise PipelineError(
            f"token dataset {directory} contains no tokens_*.npy files; create it with python3 dataset_prep.py"
        )
    rows = {tokens.shape[1:] for tokens in files.values()}
    dimensions = {tokens.ndim for tokens in files.values()}
    if len(rows) > 1 or dimensions not in ({1}, {2}):
        shapes = ", ".join(f"{name} {tokens.shape}" for name, tokens in files.items())
        raise PipelineError(
            f"token dataset {directory} contains {shapes}; expected flat arrays, or rows of equal length"
        )
    return files


def _found_paths(directory: Path) -> list[Path]:
    paths = [path for path in directory.glob("tokens_*.npy") if is_token_file(path)]
    return sorted(paths, key=lambda path: int(path.stem.removeprefix("tokens_")))


def _map_file(path: Path) -> np.memmap:
    try:
        tokens = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        _refuse_file(path, "is missing")
    except DAMAGED_ARRAY_ERRORS as error:
        _refuse_file(path, f"is damaged or cut short ({error})")
    if tokens.dtype != np.uint16:
        raise PipelineError(f"token file {path} has type {tokens.dtype}; expected uint16")
    return tokens


def _refuse_file(path: Path, problem: str) -> NoReturn:
    raise PipelineError(f"token file {path} {problem}; copy it again, or prepare the dataset again with --restart")


def _sum_of_ends(tokens: np.ndarray) -> str:
    """Older datasets have no sha256; they are identified by their shape and first and last thousand tokens."""
    flat = tokens.reshape(-1)
    return f"{tokens.shape}{hashlib.sha256(flat[:1000].tobytes() + flat[-1000:].tobytes()).hexdigest()}"
