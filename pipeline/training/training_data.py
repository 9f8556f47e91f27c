"""What the training loop reads: loaders of any kind that have this interface."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

# What a loader yields: ids (B, T), or a dict with "input_ids" and, if needed, "labels" (-100: not learned from) and
# "segment_ids".
LoaderItem = Tensor | Mapping[str, Tensor]


class ValidationBatches(Protocol):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[LoaderItem]: ...


class TrainingBatches(ValidationBatches, Protocol):
    """Iterates over the rest of its epoch; its length is the batches of a whole epoch."""

    epoch: int

    @property
    def sequence_length(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingData:
    """What a run reads.

    Attributes:
        vocab_size: every id is below it.
        token_bytes: the bytes of each token id, for bits per byte; None leaves them out.
        document_start: the token id that begins a document; given, documents that share a window do not attend to each
            other.
    """

    training: TrainingBatches
    validation: ValidationBatches
    vocab_size: int
    token_bytes: Tensor | None = None
    document_start: int | None = None
