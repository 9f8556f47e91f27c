"""Batches of token ids: training windows part by part, validation windows in order.

    split = split_windows(dataset, val_split=0.1, seed=42)
    for batch in TrainingLoader(dataset, split, LoaderOptions(batch_size=64), device=device):
        ...                                 # one epoch of (B, T) ids, int64, on the device

From the stream to a batch: a part of the stream is on the device; a window is T tokens from its start; a batch is B
windows (`TrainingLoader._ids`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.dataloading.dataset_check import BackgroundCheck
from pipeline.dataloading.resident_parts import Part, PartKey, ResidentParts
from pipeline.dataloading.split import Split, read_run, read_windows, window_positions
from pipeline.formats.token_dataset import TokenDataset
from utils.arithmetic import ceil_div
from utils.devices import World, current_world, free_memory
from utils.errors import PipelineError

_MEMORY_SHARE = 0.4  # of the device's free memory, for the part in use and the next one; the rest is the model's
_MIN_STEPS_PER_PART = 32  # windows that do not fill a step at a part's end are skipped this epoch: under 3%


@dataclass(frozen=True)
class LoaderOptions:
    """How windows become batches."""

    batch_size: int = 32  # B
    batches_per_step: int = 1  # of this process; an epoch consists of whole steps
    shuffle: bool = True
    order_seed: int = 0  # draws the order of the training windows; the split does not depend on it
    min_parts: int = 4  # more are made if two of them would not fit in the device's memory
    num_parts: int | None = None  # exactly this many, as a resumed run had
    val_tokens: int | None = None  # validation tokens at most; None: all
    world: World | None = None  # None: as torchrun says


class TrainingLoader:
    """Batches of training windows, part by part, each epoch in another order. An epoch is ``for batch in loader``.

    A part holds randomly chosen blocks of the text, so that all parts are alike. `state_dict` and `load_state_dict`
    continue exactly: the same windows in the same order, also with another number of processes that together take as
    many windows a step.

    Args:
        check: verifies the files meanwhile; damage ends the iteration with its error.
        free_bytes: what the device has free; None: ask it.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        split: Split,
        options: LoaderOptions,
        *,
        device: torch.device,
        check: BackgroundCheck | None = None,
        free_bytes: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.split = split
        self.device = device
        self.check = check
        self.batch_size = options.batch_size
        self.shuffle = options.shuffle
        self.seed = options.order_seed
        self.world = options.world or current_world()
        self.step_windows = options.batch_size * options.batches_per_step * self.world.size
        self.epoch = 0
        self.batch = 0
        _refuse_less_than_a_step(dataset, split, self.step_windows)
        self.num_parts = options.num_parts or _fitting_parts(
            split,
            step_windows=self.step_windows,
            min_parts=options.min_parts,
            bytes_per_window=_bytes_per_window(dataset, split),
            free_bytes=free_memory(device) if free_bytes is None else free_bytes,
        )
        self.resident = ResidentParts(self._read_part, device)
        self._assign_blocks()

    @property
    def sequence_length(self) -> int:
        return self.dataset.window

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return sum(self._batches_of(part) for part in range(self.num_parts))

    def __iter__(self) -> Iterator[Tensor]:
        """The rest of the current epoch as (B, T) ids; afterwards the loader is at the start of the next one."""
        skipped = self.batch
        for number in self._part_order(self.epoch):
            if skipped >= self._batches_of(number):
                skipped -= self._batches_of(number)
                continue
            key = PartKey(self.epoch, number)
            part = self.resident.take(key, following=self._after(key))
            for batch in range(skipped, self._batches_of(number)):
                if self.check:
                    self.check.poll()
                self.batch += 1
                yield self._ids(part, batch)
            skipped = 0
        self.epoch += 1
        self.batch = 0

    def _ids(self, part: Part, batch: int) -> Tensor:
        """Batch number `batch` of the part: ids (B, T), int64."""
        first = (batch * self.world.size + self.world.rank) * self.batch_size
        starts = part.starts[first : first + self.batch_size]  # (B,)
        positions = starts[:, None] + torch.arange(self.dataset.window, device=self.device)  # (B, T)
        return part.tokens[positions].long() & 0xFFFF  # (B, T): int16 holds the bits of uint16

    def state_dict(self) -> dict[str, int]:
        windows = self.batch * self.batch_size * self.world.size
        return {
            "epoch": self.epoch,
            "windows": windows,
            "num_parts": self.num_parts,
            "step_windows": self.step_windows,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken.

        Raises:
            PipelineError: a step has another size, so that an epoch would consist of other steps.
        """
        if state["step_windows"] != self.step_windows:
            raise PipelineError(
                f"the checkpoint was trained with {state['step_windows']} windows per step, but the current "
                f"settings give {self.step_windows} (batch_size x gradient_accumulation_steps x processes); "
                "adjust them so that the product is the same"
            )
        self.epoch = state["epoch"]
        self.seed = state["seed"]
        self.batch = state["windows"] // (self.batch_size * self.world.size)
        if state["num_parts"] != self.num_parts:
            self.num_parts = state["num_parts"]
            self._assign_blocks()
        self.resident.clear()

    def _assign_blocks(self) -> None:
        order = np.random.default_rng([self.seed, 0x5EED]).permutation(len(self.split.train))
        # Sorted within a part: the file is read from front to back.
        self._parts = [self.split.train[np.sort(order[part :: self.num_parts])] for part in range(self.num_parts)]

    def _batches_of(self, part: int) -> int:
        steps = int(self._parts[part]["count"].sum()) // self.step_windows
        return steps * self.step_windows // (self.batch_size * self.world.size)

    def _part_order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.num_parts))
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_parts)
        return [int(part) for part in order]

    def _after(self, key: PartKey) -> PartKey:
        order = self._part_order(key.epoch)
        place = order.index(key.number) + 1
        if place < len(order):
            return PartKey(key.epoch, order[place])
        return PartKey(key.epoch + 1, self._part_order(key.epoch + 1)[0])

    def _read_part(self, key: PartKey) -> Part:
        """The part in main memory, its windows in the order of the epoch."""
        tokens, starts, filled = [], [], 0
        for run in self._parts[key.number]:
            run_tokens, run_starts = read_run(self.dataset, run, self.split.train_step)
            tokens.append(run_tokens)
            starts.append(run_starts + filled)
            filled += len(run_tokens)
        order = np.concatenate(starts)
        if self.shuffle:
            order = order[np.random.default_rng([self.seed, key.epoch, key.number]).permutation(len(order))]
        return Part(torch.from_numpy(np.concatenate(tokens).view(np.int16)), torch.from_numpy(order))


class ValidationLoader:
    """Batches of validation windows in main memory, always the same and in the same order.

    At most `options.val_tokens` tokens, spread evenly over the validation text. Several processes share the batches.

    Args:
        pin: in page-locked memory, for a fast copy to a GPU.
        check: verifies the files; the first batch waits for it.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        split: Split,
        options: LoaderOptions,
        *,
        pin: bool = False,
        check: BackgroundCheck | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = options.batch_size
        self.world = options.world or current_world()
        self.pin = pin
        self.check = check
        file, start = window_positions(split.validation, split.val_step)
        chosen = _evenly_spread(len(file), options.val_tokens, dataset.window)
        self.file = file[chosen]
        self.start = start[chosen]

    @property
    def num_windows(self) -> int:
        return len(self.file)

    def __len__(self) -> int:
        """Batches of this process."""
        return len(range(self.world.rank, ceil_div(self.num_windows, self.batch_size), self.world.size))

    def __iter__(self) -> Iterator[Tensor]:
        if self.check:
            self.check.wait()
        stride = self.batch_size * self.world.size
        for first in range(self.world.rank * self.batch_size, self.num_windows, stride):
            rows = slice(first, first + self.batch_size)
            windows = read_windows(self.dataset, self.file[rows], self.start[rows])  # uint16 (B, T)
            ids = torch.from_numpy(windows.astype(np.int64))  # (B, T)
            yield ids.pin_memory() if self.pin else ids


def _evenly_spread(count: int, max_tokens: int | None, window: int) -> np.ndarray:
    """Indices of as many of `count` windows as `max_tokens` allows, at least one."""
    number = count if max_tokens is None else min(count, max(1, max_tokens // window))
    return np.linspace(0, count - 1, number).round().astype(np.int64)


def _refuse_less_than_a_step(dataset: TokenDataset, split: Split, step_windows: int) -> None:
    if split.train_size < step_windows:
        raise PipelineError(
            f"token dataset {dataset.directory} has {split.train_size} training windows of {dataset.window} "
            f"tokens, but one step needs {step_windows}; lower training.batch_size or gradient_accumulation_steps"
        )


def _bytes_per_window(dataset: TokenDataset, split: Split) -> int:
    """On the device: two for a token, eight for the place where the window begins."""
    tokens = dataset.window if dataset.is_windowed else split.train_step
    return 2 * tokens + 8


def _fitting_parts(split: Split, *, step_windows: int, min_parts: int, bytes_per_window: int, free_bytes: int) -> int:
    """`min_parts` parts, fewer if they would be too short, more if two of them would not fit in the device's memory."""
    most = len(split.train)  # a part holds at least one run of windows
    long_enough = split.train_size // (step_windows * _MIN_STEPS_PER_PART)
    parts = max(1, min(min_parts, long_enough, most))
    two_whole_copies = 2 * split.train_size * bytes_per_window  # a part, and its successor, which is loaded meanwhile
    budget = _MEMORY_SHARE * free_bytes
    if two_whole_copies / parts <= budget:
        return parts
    fitting = int(two_whole_copies / budget) + 1
    return max(parts, min(fitting, most))
