"""Which windows of a token dataset train and which validate: `val_split` of contiguous blocks, drawn with a seed.

A stream is cut into blocks; a window belongs to the block it begins in. Validation blocks are drawn at random and read
without overlap; a training window that reaches into one is left out. So no token of a validation window is ever in a
training window, although the windows of a stream overlap.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.formats.token_dataset import TokenDataset
from utils.errors import PipelineError

_LONGEST_BLOCK, _SHORTEST_BLOCK = 64, 4  # in windows; each validation block costs about two training windows
_MOST_BLOCKS_NEEDED = 200

# Windows that follow one another in one file: `count` of them, the first at token `start`.
RUN = np.dtype([("file", np.int32), ("start", np.int64), ("count", np.int64)])


@dataclass(frozen=True)
class Split:
    """Training and validation windows as arrays of `RUN`.

    Training windows are `train_step` tokens apart, validation windows `val_step`, which is a window or more.
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
    """The split of `dataset`; the same for the same tokens, window, `val_split` and `seed`.

    Raises:
        PipelineError: too few windows to have both.
    """
    step = row_stride(dataset) if dataset.is_windowed else dataset.stride
    # Rows of a two-dimensional dataset begin at multiples of their stride only, so a tile is such a multiple.
    tile = -(-dataset.window // step) * step if dataset.is_windowed else dataset.window
    lengths = [stream_length(dataset, file, step) for file in range(len(dataset.files))]
    file, start, end = _cut(lengths, _block_length(sum(lengths), tile))
    held_out = np.zeros(len(start), dtype=bool)
    count = max(1, round(val_split * len(start)))
    held_out[np.random.default_rng(seed).permutation(len(start))[:count]] = True
    train = _training_runs(dataset.window, step, np.asarray(lengths), file, start, end, held_out)
    tiles = (end - start - dataset.window) // tile + 1
    validation = _runs(file, start, tiles)[held_out]
    if not train["count"].sum():
        raise PipelineError(
            f"token dataset {dataset.directory} is too small to hold out validation text: {sum(lengths)} tokens, "
            f"windows of {dataset.window}; prepare more text, or take a shorter window with --set dataset.window=N"
        )
    return Split(train, validation, step, tile)


def stream_length(dataset: TokenDataset, file: int, step: int) -> int:
    """Tokens of one file's stream; for a window a row, of the stream that the rows were cut from."""
    tokens = dataset.files[file]
    return (len(tokens) - 1) * step + dataset.window if dataset.is_windowed else len(tokens)


def row_stride(dataset: TokenDataset) -> int:
    """Tokens from one row's start to the next one's, found by laying the first rows over one another."""
    rows = np.asarray(dataset.files[0][:8])
    for step in range(1, dataset.window):
        if len(rows) > 1 and np.array_equal(rows[:-1, step:], rows[1:, : dataset.window - step]):
            return step
    return dataset.window


def read_run(dataset: TokenDataset, run: np.void, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that a run of windows covers, and where in them each window begins.

    Raises:
        PipelineError: an id is not in the vocabulary.
    """
    tokens, count = dataset.files[run["file"]], int(run["count"])
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


def _block_length(num_tokens: int, tile: int) -> int:
    """Long blocks waste few windows, many blocks make a fair sample: at best 200 and more of 64 windows each."""
    shortest = _SHORTEST_BLOCK if num_tokens >= 10 * _SHORTEST_BLOCK * tile else 1
    windows = num_tokens // _MOST_BLOCKS_NEEDED // tile
    return min(max(windows, shortest), _LONGEST_BLOCK) * tile


def _cut(lengths: list[int], block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """File, start and end of every block; a file's last block takes the rest, so it is no shorter than the others."""
    counts = np.maximum(1, np.asarray(lengths) // block)
    file = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(file)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = within * block
    is_last = within == counts[file] - 1
    return file, start, np.where(is_last, np.asarray(lengths)[file], start + block)


def _training_runs(
    window: int,
    step: int,
    lengths: np.ndarray,
    file: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    held_out: np.ndarray,
) -> np.ndarray:
    first = -(-start // step)
    num_windows = -(-(lengths[file] - window) // step) + 1  # of the block's whole file
    limit = np.minimum(-(-end // step), num_windows)  # windows that begin in the block
    next_is_held_out = np.append(held_out[1:] & (file[1:] == file[:-1]), False)
    limit = np.where(next_is_held_out, np.minimum(limit, (end - window) // step + 1), limit)
    runs = _runs(file, first * step, np.maximum(limit - first, 0))[~held_out]
    return runs[runs["count"] > 0]


def _runs(file: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    runs = np.empty(len(start), dtype=RUN)
    runs["file"], runs["start"], runs["count"] = file, start, count
    return runs
