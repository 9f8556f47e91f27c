"""Batches of token ids: training windows part by part, validation windows in order."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.dataloading.dataset_check import BackgroundCheck
from pipeline.dataloading.split import Split, read_run, read_windows, window_positions
from pipeline.formats.token_dataset import TokenDataset
from pipeline.preparation.config import DatasetConfig
from pipeline.training.config import TrainingConfig
from utils.devices import World, current_world, free_memory
from utils.errors import PipelineError
from utils.options import read_section

_MEMORY_SHARE = 0.4  # of the device's free memory, for the part in use and the next one; the rest is the model's


_LOCKED_VALUES = 1 << 24  # copied to the GPU at once


_MIN_STEPS_PER_PART = 32  # what does not fill a step at a part's end is left out this epoch: under 3%


@dataclass(frozen=True)
class _Part:
    """A part of the training tokens on the device, and where its windows begin, in this epoch's order."""

    tokens: Tensor  # int16 (tokens,), the bits of uint16
    starts: Tensor  # int64 (windows,)
    ready: Any = None  # CUDA event: the copy is done


class FourthLoader:
    """Batches of training windows, part by part, each epoch in another order. An epoch is ``for batch in loader``.

    A part holds randomly assigned contiguous blocks, so that all parts are alike. `state_dict` and `load_state_dict`
    continue exactly: the same windows in the same order, also with another number of processes that together take as
    many windows a step.

    Args:
        num_parts: parts at least; more are made where two of them would not fit in the device's memory.
        batches_per_step: batches of this process in one step; an epoch is made of whole steps.
        check: verifies the files meanwhile; damage ends the iteration with its error.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        shuffle: bool = True,
        num_parts: int = 4,
        batches_per_step: int = 1,
        world: World | None = None,
        free_bytes: int | None = None,
        check: BackgroundCheck | None = None,
    ) -> None:
        self.dataset, self.split, self.device, self.check = dataset, split, device, check
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.world = world or current_world()
        self.step_windows = batch_size * batches_per_step * self.world.size
        self.epoch = self.batch = 0
        self.num_parts = _fitting_parts(split, dataset, num_parts, self.step_windows, device, free_bytes)
        self._assign_blocks()
        self._loaded: tuple[tuple[int, int], _Part] | None = None
        self._next: tuple[tuple[int, int], Future[_Part]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-part")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def sequence_length(self) -> int:
        return self.dataset.window

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return sum(self._batches_of(part) for part in range(self.num_parts))

    def __iter__(self) -> Iterator[Tensor]:
        """The rest of the current epoch; then the loader stands at the start of the next one."""
        skipped = self.batch
        for part in self._part_order(self.epoch):
            if skipped >= self._batches_of(part):
                skipped -= self._batches_of(part)
                continue
            self._take(self.epoch, part)
            for batch in range(skipped, self._batches_of(part)):
                if self.check:
                    self.check.poll()
                self.batch += 1
                yield self._ids(self._loaded[1], batch)
            skipped = 0
        self.epoch, self.batch = self.epoch + 1, 0

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
        """Raises PipelineError where the step has another size: then an epoch's windows do not fall out the same."""
        if state["step_windows"] != self.step_windows:
            raise PipelineError(
                f"the checkpoint's steps took {state['step_windows']} windows, these settings take {self.step_windows} "
                "(batch_size x gradient_accumulation_steps x processes); choose them so that the product stays the same"
            )
        self.epoch, self.seed = state["epoch"], state["seed"]
        self.batch = state["windows"] // (self.batch_size * self.world.size)
        self.use_parts(state["num_parts"])

    def use_parts(self, count: int) -> None:
        """Cuts the data into exactly so many parts, as the run that is resumed did."""
        if count != self.num_parts:
            self.num_parts = count
            self._assign_blocks()
        self._loaded = self._next = None

    def skip_batches(self, count: int) -> None:
        """Leaves out the next `count` batches."""
        for _ in range(count):
            self.batch += 1
            if self.batch >= len(self):
                self.epoch, self.batch = self.epoch + 1, 0

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
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_parts).tolist()

    def _take(self, epoch: int, part: int) -> None:
        """Makes the part the loaded one; the one after it is then loaded in the background."""
        key = (epoch, part)
        if not (self._loaded and self._loaded[0] == key):
            self._loaded = None  # its memory is free before the next one is asked for
            waiting = self._next if self._next and self._next[0] == key else None
            loaded = waiting[1].result() if waiting else self._load(epoch, part)
            self._loaded = (key, loaded)
        self._wait_for_copy(self._loaded[1])
        following = self._after(epoch, part)
        if not (self._next and self._next[0] == following):
            self._next = (following, self._thread.submit(self._load, *following))

    def _wait_for_copy(self, part: _Part) -> None:
        if part.ready:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(part.ready)
            # The copy's stream owns the memory; it must not be given away while the model's stream still reads it.
            part.tokens.record_stream(stream)
            part.starts.record_stream(stream)

    def _after(self, epoch: int, part: int) -> tuple[int, int]:
        order = self._part_order(epoch)
        place = order.index(part) + 1
        return (epoch, order[place]) if place < len(order) else (epoch + 1, self._part_order(epoch + 1)[0])

    def _load(self, epoch: int, part: int) -> _Part:
        tokens, starts, filled = [], [], 0
        for run in self._parts[part]:
            run_tokens, run_starts = read_run(self.dataset, run, self.split.train_step)
            tokens.append(run_tokens)
            starts.append(run_starts + filled)
            filled += len(run_tokens)
        order = np.concatenate(starts)
        if self.shuffle:
            order = order[np.random.default_rng([self.seed, epoch, part]).permutation(len(order))]
        return self._to_device(np.concatenate(tokens).view(np.int16), order)

    def _to_device(self, tokens: np.ndarray, starts: np.ndarray) -> _Part:
        host = torch.from_numpy(tokens), torch.from_numpy(starts)
        if self.device.type != "cuda":
            return _Part(host[0].to(self.device), host[1].to(self.device))
        with torch.cuda.stream(self._stream):  # beside the model's work, not between it
            on_device = [_copied(tensor, self.device) for tensor in host]
            event = torch.cuda.Event()
            event.record()
        return _Part(*on_device, event)

    def _ids(self, part: _Part, batch: int) -> Tensor:
        """Batch number `batch` of the part: ids (B, T), int64."""
        first = (batch * self.world.size + self.world.rank) * self.batch_size
        starts = part.starts[first : first + self.batch_size]
        positions = starts[:, None] + torch.arange(self.dataset.window, device=self.device)  # (B, T)
        return part.tokens[positions].long() & 0xFFFF


def _copied(host: Tensor, device: torch.device) -> Tensor:
    """`host` on the device, by way of locked memory a piece at a time: torch would lock the whole of it rounded up to a
    power of two, up to twice its size in main memory, and keep that to the end."""
    result = torch.empty_like(host, device=device)
    for target, source in zip(result.split(_LOCKED_VALUES), host.split(_LOCKED_VALUES), strict=True):
        target.copy_(source.pin_memory(), non_blocking=True)
    return result


class ValidationLoader:
    """Batches of validation windows in main memory, always the same and in the same order.

    At most `max_tokens` tokens, spread evenly over the validation text. Of several processes each takes its share.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        split: Split,
        *,
        batch_size: int,
        max_tokens: int | None = None,
        pin: bool = False,
        world: World | None = None,
        check: BackgroundCheck | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.pin, self.check = dataset, batch_size, pin, check
        file, start = window_positions(split.validation, split.val_step)
        wanted = len(file) if max_tokens is None else min(len(file), max(1, max_tokens // dataset.window))
        chosen = np.linspace(0, len(file) - 1, wanted).round().astype(np.int64)
        self.file, self.start = file[chosen], start[chosen]
        self.world = world or current_world()

    @property
    def num_windows(self) -> int:
        return len(self.file)

    def __len__(self) -> int:
        return len(range(self.world.rank, -(-self.num_windows // self.batch_size), self.world.size))

    def __iter__(self) -> Iterator[Tensor]:
        if self.check:
            self.check.wait()
        stride = self.batch_size * self.world.size
        for first in range(self.world.rank * self.batch_size, self.num_windows, stride):
            rows = slice(first, first + self.batch_size)
            windows = read_windows(self.dataset, self.file[rows], self.start[rows])
            ids = torch.from_numpy(windows.astype(np.int64))  # (B, T)
            yield ids.pin_memory() if self.pin else ids


def _check_arguments(batch_size: int, val_split: float | None, seed: int | None, dataset_source: str | None) -> None:
    """Hold the arguments to the bounds of the configuration keys that they stand for."""
    dataset = {"source": dataset_source, "val_split": val_split, "seed": seed}
    given = {key: value for key, value in dataset.items() if value is not None}
    options = {"origin": "create_simple_train_val_dataloaders", "base": Path.cwd()}
    read_section(DatasetConfig, given, name="dataset", **options)
    read_section(TrainingConfig, {"batch_size": batch_size}, name="training", **options)


def _fitting_parts(
    split: Split, dataset: TokenDataset, wanted: int, step_windows: int, device: torch.device, free_bytes: int | None
) -> int:
    """`wanted` parts, fewer where they would be too short, more where two would not fit in the device's memory."""
    if split.train_size < step_windows:
        raise PipelineError(
            f"token dataset {dataset.directory} has {split.train_size} training windows of {dataset.window} tokens, "
            f"fewer than the {step_windows} of one step; lower training.batch_size or gradient_accumulation_steps"
        )
    parts = max(1, min(wanted, split.train_size // (step_windows * _MIN_STEPS_PER_PART), len(split.train)))
    budget = _MEMORY_SHARE * (free_memory(device) if free_bytes is None else free_bytes)
    # A part's bytes: two for a token, eight for where a window begins, and its neighbour is loaded meanwhile.
    whole = split.train_size * ((dataset.window if dataset.is_windowed else split.train_step) * 2 + 8)
    needed = min(int(2 * whole / budget) + 1, len(split.train)) if 2 * whole / parts > budget else parts
    return max(parts, needed)
