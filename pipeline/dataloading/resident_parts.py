"""Keep the current part of the training tokens on the device, and load the next one ahead.

parts = ResidentParts(load, device)
part = parts.take(PartKey(epoch=0, number=2), following=PartKey(epoch=0, number=1))
part.tokens, part.starts        # on the device; part 1 is being loaded
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_LOCKED_VALUES = 1 << 24  # copied to the GPU in one piece


class PartKey(NamedTuple):
    """A part's number, and the epoch that determines its order."""

    epoch: int
    number: int


@dataclass(frozen=True)
class Part:
    """A part of the training tokens, and the starts of its windows in the order of this epoch."""

    tokens: Tensor  # int16 (tokens,), reinterpreted as uint16
    starts: Tensor  # int64 (windows,)
    copied: torch.cuda.Event | None = None  # on CUDA: recorded when the copy to the device is done


class ResidentParts:
    """Holds at most two parts: the current one and its successor.

    Args:
        load: reads a part into main memory; called in a background thread, except for the first part.
    """

    def __init__(self, load: Callable[[PartKey], Part], device: torch.device) -> None:
        self.load = load
        self.device = device
        self._current: tuple[PartKey, Part] | None = None
        self._next: tuple[PartKey, Future[Part]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="next-part")
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch

    def take(self, key: PartKey, *, following: PartKey) -> Part:
        """The part `key` on the device; `following` is loaded in the background from now on."""
        if self._current is None or self._current[0] != key:
            self._current = None  # free its memory before loading the next one
            self._current = key, self._loaded(key)
        part = self._current[1]
        self._wait_for_copy(part)
        if self._next is None or self._next[0] != following:
            self._next = following, self._thread.submit(self._load_to_device, following)
        return part

    def clear(self) -> None:
        """Drop all loaded parts."""
        self._current = None
        self._next = None

    def _loaded(self, key: PartKey) -> Part:
        if self._next is not None and self._next[0] == key:
            return self._next[1].result()
        return self._load_to_device(key)

    def _load_to_device(self, key: PartKey) -> Part:
        part = self.load(key)
        if self._stream is None:
            return Part(part.tokens.to(self.device), part.starts.to(self.device))
        with torch.cuda.stream(self._stream):  # overlaps with the model's computation
            tokens = copied(part.tokens, self.device)
            starts = copied(part.starts, self.device)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
            event.record()
        return Part(tokens, starts, event)

    def _wait_for_copy(self, part: Part) -> None:
        if part.copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(part.copied)
            # The copy's stream owns the memory; it must not be reused while the model's stream still reads it.
            part.tokens.record_stream(stream)
            part.starts.record_stream(stream)


def copied(host: Tensor, device: torch.device) -> Tensor:
    """Copy `host` to the device piece by piece through page-locked memory.

    Torch would page-lock the whole array, rounded up to a power of two, and keep that memory until the process ends.
    """
    result = torch.empty_like(host, device=device)
    pieces = zip(torch.split(result, _LOCKED_VALUES), torch.split(host, _LOCKED_VALUES), strict=True)
    for target, source in pieces:
        target.copy_(source.pin_memory(), non_blocking=True)
    return result
