"""The parameters of a preparation run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.preparation.config import DatasetConfig
from pipeline.preparation.input_shards import Shard
from pipeline.preparation.inputs import InputFile, input_files
from pipeline.tokenization.interface import Tokenizer

if TYPE_CHECKING:
    from pipeline.preparation.decontamination import EvaluationIndex

WORK_DIR = "unfinished"


@dataclass(frozen=True)
class Preparation:
    """A dataset to prepare. `recipe` has every setting that affects its content, under the configuration's names;
    `check_input` raises PipelineError if the input is damaged.
    """

    directory: Path
    shards: Sequence[Shard]
    load_tokenizer: Callable[[], Tokenizer]
    recipe: Mapping[str, Any]
    dataset: DatasetConfig
    workers: int
    limit: int | None = None
    min_tokens: int = 0
    evaluation: "EvaluationIndex | None" = None
    prefetch: bool = False
    restart: bool = False
    check_input: Callable[[], None] = lambda: None

    @property
    def work_dir(self) -> Path:
        return self.directory / WORK_DIR

    @cached_property
    def inputs(self) -> list[InputFile]:
        return input_files(self.shards)
