"""Split a token dataset into training and validation windows, by contiguous blocks chosen with a seed.

A stream is cut into blocks, and a window belongs to the block in which it starts. Validation blocks are chosen at
random and read without overlap; training windows that reach into one are dropped. So no token of a validation window is
ever in a training window, even though the windows of a stream overlap.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.formats.token_dataset import TokenDataset
from utils.arithmetic import ceil_div
from utils.errors import PipelineError

_LONGEST_BLOCK = 64  # in windows; each validation block costs about two training windows
_SHORTEST_BLOCK = 4
_MOST_BLOCKS_NEEDED = 200

# Consecutive windows in one file: `count` of them, the first at token `start`.
RUN = np.dtype([("file", np.int32), ("start", np.int64), ("count", np.int64)])


@dataclass(frozen=True)
class Split:
    """Training and validation windows as arrays of `RUN`.

    Training windows are `train_step` tokens apart, validation windows `val_step`, which is at least a window.
    """

    train: np.ndarray
    validation: np.ndarray
    train_step: int
    val_step: int

    @property
    def train_size(self) -> int:
        return int(self.train["count"].sum())

    @property
    def val_size(self) -> int:
        return int(self.validation["count"].sum())


def split_windows(dataset: TokenDataset, *, val_split: float, seed: int) -> Split:
    """The split of `dataset`; deterministic for the same tokens, window, `val_split` and `seed`.

    Raises:
        PipelineError: too few windows for both.
    """
    window = dataset.window
    step = row_stride(dataset) if dataset.is_windowed else dataset.stride
    # Rows of a two-dimensional dataset start only at multiples of their stride, so a tile is such a multiple.
    tile = ceil_div(window, step) * step if dataset.is_windowed else window
    lengths = [stream_length(dataset, file, step) for file in range(len(dataset.files))]
    blocks = _cut(lengths, _block_length(sum(lengths), tile))
    held_out = _draw(len(blocks), val_split, seed)
    train = _training_runs(blocks, held_out, window=window, step=step)
    validation = _validation_runs(blocks, held_out, window=window, tile=tile)
    if not train["count"].sum():
        raise PipelineError(
            f"token dataset {dataset.directory} is too small to hold out validation data: it has {sum(lengths)} "
            f"tokens, and a window is {window} tokens; prepare more text, or use a shorter window with --set "
            "dataset.window=N"
        )
    return Split(train, validation, step, tile)


def stream_length(dataset: TokenDataset, file: int, step: int) -> int:
    """The number of tokens in a file's stream; for one window per row, in the stream that the rows were cut from."""
    tokens = dataset.files[file]
    return (len(tokens) - 1) * step + dataset.window if dataset.is_windowed else len(tokens)


def row_stride(dataset: TokenDataset) -> int:
    """Tokens between the starts of consecutive rows, found by comparing the first rows."""
    rows = np.asarray(dataset.files[0][:8])
    for step in range(1, dataset.window):
        if len(rows) > 1 and np.array_equal(rows[:-1, step:], rows[1:, : dataset.window - step]):
            return step
    return dataset.window


def read_run(dataset: TokenDataset, run: np.void, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens covered by a run of windows, and the start of each window in them.

    Raises:
        PipelineError: an id is not in the vocabulary.
    """
    tokens = dataset.files[run["file"]]
    count = int(run["count"])
    if dataset.is_windowed:
        first = int(run["start"]) // row_stride(dataset)
        covered = tokens[first : first + count].reshape(-1)
        starts = np.arange(count, dtype=np.int64) * dataset.window
    else:
        first = int(run["start"])
        starts = np.minimum(first + np.arange(count, dtype=np.int64) * step, len(tokens) - dataset.window)
        covered = tokens[first : starts[-1] + dataset.window]
        starts = starts - first
    dataset.refuse_unknown_ids(covered)
    return covered, starts


def read_windows(dataset: TokenDataset, file: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Windows at token `start` of `file`, uint16 (windows, T).

    Raises:
        PipelineError: an id is not in the vocabulary.
    """
    result = np.empty((len(start), dataset.window), dtype=np.uint16)
    for row, (index, first) in enumerate(zip(file, start, strict=True)):
        tokens = dataset.files[index]
        if dataset.is_windowed:
            result[row] = tokens[first // row_stride(dataset)]
        else:
            result[row] = tokens[first : first + dataset.window]
    dataset.refuse_unknown_ids(result)
    return result


def window_positions(runs: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """File and first token of every window of `runs`, in order."""
    index = np.repeat(np.arange(len(runs)), runs["count"])
    before = np.repeat(np.cumsum(runs["count"]) - runs["count"], runs["count"])
    return runs["file"][index], runs["start"][index] + (np.arange(len(index)) - before) * step


@dataclass(frozen=True)
class _Blocks:
    """The blocks of all streams, in order: parallel arrays with one entry per block."""

    file: np.ndarray  # the file of the block
    start: np.ndarray  # its first token in that file
    end: np.ndarray  # the token after its last
    file_length: np.ndarray  # tokens in the whole file

    def __len__(self) -> int:
        return len(self.file)


def _block_length(num_tokens: int, tile: int) -> int:
    """Long blocks waste few windows, and many blocks give a fair sample: ideally at least 200 blocks of 64 windows."""
    shortest = _SHORTEST_BLOCK if num_tokens >= 10 * _SHORTEST_BLOCK * tile else 1
    windows = num_tokens // _MOST_BLOCKS_NEEDED // tile
    return min(max(windows, shortest), _LONGEST_BLOCK) * tile


def _cut(lengths: list[int], block: int) -> _Blocks:
    """Cut every file into blocks of `block` tokens; the last one includes the remainder, so none is shorter."""
    file_lengths = np.asarray(lengths)
    counts = np.maximum(1, file_lengths // block)
    file = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(file)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the file
    start = number * block
    is_last = number == counts[file] - 1
    end = np.where(is_last, file_lengths[file], start + block)
    return _Blocks(file, start, end, file_lengths[file])


def _draw(num_blocks: int, val_split: float, seed: int) -> np.ndarray:
    """A mask of the held-out blocks, bool (blocks,); at least one."""
    count = max(1, round(val_split * num_blocks))
    held_out = np.zeros(num_blocks, dtype=bool)
    held_out[np.random.default_rng(seed).permutation(num_blocks)[:count]] = True
    return held_out


def _validation_runs(blocks: _Blocks, held_out: np.ndarray, *, window: int, tile: int) -> np.ndarray:
    """The windows of the held-out blocks, without overlap."""
    count = (blocks.end - blocks.start - window) // tile + 1
    return _runs(blocks.file[held_out], blocks.start[held_out], count[held_out])


def _training_runs(blocks: _Blocks, held_out: np.ndarray, *, window: int, step: int) -> np.ndarray:
    """The windows that start in the other blocks and do not reach into a held-out one."""
    first = _ceil_div(blocks.start, step)  # numbers of windows in the file
    behind_block = _ceil_div(blocks.end, step)
    behind_file = _ceil_div(blocks.file_length - window, step) + 1
    behind = np.minimum(behind_block, behind_file)
    same_file = blocks.file[1:] == blocks.file[:-1]
    next_is_held_out = np.append(held_out[1:] & same_file, False)
    ending_in_block = (blocks.end - window) // step + 1
    behind = np.where(next_is_held_out, np.minimum(behind, ending_in_block), behind)
    count = np.where(held_out, 0, behind - first)
    begun = count > 0
    return _runs(blocks.file[begun], first[begun] * step, count[begun])


def _ceil_div(numerators: np.ndarray, denominator: int) -> np.ndarray:
    """`ceil_div` for every element."""
    rounded_up: np.ndarray = (numerators + denominator - 1) // denominator
    return rounded_up


def _runs(file: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    runs = np.empty(len(start), dtype=RUN)
    runs["file"] = file
    runs["start"] = start
    runs["count"] = count
    return runs
