"""Conversations on the device → batches of ids and labels, in a new order every epoch.

    train_rows, val_rows = split_examples(len(data.ids), val_split=0.1, seed=42)
    loader = ConversationLoader(data, train_rows, batch_size=8, seed=42, device=device, packing=True)

A conversation's labels are its ids where the mask is 1 and -100 elsewhere. Padding is never learned from and, as
attention only looks back, changes nothing before it. Packed, several conversations share a row of at most
`max_length` tokens, and ``segment_ids`` keep them from attending to each other.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.modeling.head_loss import IGNORED
from pipeline.tuning.dataset import SftDataset
from utils.arithmetic import ceil_div
from utils.errors import PipelineError


def split_examples(num_examples: int, *, val_split: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training and of the validation examples: at least one each, the same for one seed.

    Raises:
        PipelineError: fewer than two examples.
    """
    if num_examples < 2:
        raise PipelineError("fine-tuning needs at least two conversations, one for training and one for validation")
    order = np.random.default_rng(seed).permutation(num_examples)
    num_validation = min(max(1, round(num_examples * val_split)), num_examples - 1)
    return np.sort(order[num_validation:]), np.sort(order[:num_validation])


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices into `lengths`, at most `capacity` tokens each: longest first, into the fullest row that fits."""
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[place]]
        if fitting:
            row = min(fitting, key=room.__getitem__)
        else:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(place)
        room[row] -= lengths[place]
    return rows


class ConversationLoader:
    """Batches for `pipeline.training.trainer`; the whole set is on the device, ids as int16.

    Args:
        rows: the examples that this loader yields, as numbers.
        seed: None for always the same order, as in validation.
        batches_per_step: an epoch consists of whole steps.
        packing: fill rows with several conversations; `batch_size` then counts such rows.
    """

    def __init__(
        self,
        data: SftDataset,
        rows: np.ndarray,
        *,
        batch_size: int,
        device: torch.device,
        seed: int | None = None,
        batches_per_step: int = 1,
        packing: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.packing = packing
        self.batches_per_step = batches_per_step
        self.sequence_length: int = data.ids.shape[1]
        self.epoch = 0
        self.batch = 0
        self.lengths = data.lengths[rows]
        # The examples of each row.
        self.groups = [[example] for example in range(len(rows))]
        if packing:
            self.groups = pack(self.lengths.tolist(), self.sequence_length)
        self._ids = torch.from_numpy(data.ids[rows].view(np.int16)).to(device)  # (N, T)
        self._masks = torch.from_numpy(data.masks[rows]).to(device)  # (N, T)

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        batches = ceil_div(len(self.groups), self.batch_size)
        return max(batches // self.batches_per_step, 1) * self.batches_per_step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The rest of the current epoch; then the loader is at the start of the next one."""
        order = self._order()
        while self.batch < len(self):
            first = self.batch * self.batch_size % len(order)
            self.batch += 1
            yield self.make_batch([self.groups[place] for place in order[first : first + self.batch_size]])
        self.epoch += 1
        self.batch = 0

    def make_batch(self, groups: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """One row for each group of examples: ``input_ids``, ``labels`` and, packed, ``segment_ids``, all (B, T)."""
        width = max(int(self.lengths[list(group)].sum()) for group in groups)
        shape = (len(groups), width)
        device = self._ids.device
        batch = {
            "input_ids": torch.zeros(shape, dtype=torch.long, device=device),
            "labels": torch.full(shape, IGNORED, dtype=torch.long, device=device),
        }
        if self.packing:
            batch["segment_ids"] = torch.zeros(shape, dtype=torch.long, device=device)  # 0: padding
        for row, group in enumerate(groups):
            start = 0
            for number, example in enumerate(group, start=1):
                length = int(self.lengths[example])
                place = (row, slice(start, start + length))
                ids = self._ids[example, :length].long() & 0xFFFF
                batch["input_ids"][place] = ids
                batch["labels"][place] = torch.where(self._masks[example, :length].bool(), ids, IGNORED)
                if self.packing:
                    batch["segment_ids"][place] = number
                start += length
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raise PipelineError if the batches would not be the checkpoint's."""
        for name, now in self._identity().items():
            if state[name] != now:
                raise PipelineError(
                    f"the checkpoint was trained with {name} {state[name]}, but it is now {now}; resume with the "
                    "original value, or start from the base model with --checkpoint"
                )
        self.epoch = state["epoch"]
        self.batch = state["batch"]

    def _identity(self) -> dict[str, Any]:
        return {
            "examples": len(self.lengths),
            "batch_size": self.batch_size,
            "batches_per_step": self.batches_per_step,
            "seed": self.seed,
            "packing": self.packing,
        }

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(len(self.groups)))
        order: list[int] = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.groups)).tolist()
        return order
