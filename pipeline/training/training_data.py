"""The interface of the data loaders used by the training loop."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

# A loader yields ids (B, T), or a dict with "input_ids" and optionally "labels" (-100 is ignored) and "segment_ids".
LoaderItem = Tensor | Mapping[str, Tensor]


class ValidationBatches(Protocol):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[LoaderItem]: ...


class TrainingBatches(ValidationBatches, Protocol):
    """Iterates over the rest of the current epoch; its length is the number of batches in a whole epoch."""

    epoch: int

    @property
    def sequence_length(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        vocab_size: all ids are below this.
        token_bytes: the length of each token in bytes, for bits per byte; None omits that metric.
        document_start: the token id at the start of a document. If set, documents in the same window do not attend to
            each other.
    """

    training: TrainingBatches
    validation: ValidationBatches
    vocab_size: int
    token_bytes: Tensor | None = None
    document_start: int | None = None
