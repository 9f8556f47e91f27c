"""The base class of benchmark tasks, and shared helpers.

A task is one file, such as `lambada.py`, with its data, the cleaning of its texts, and the scoring of a model.
`benchmark_sets.py` lists the tasks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pipeline.evaluation.statistics import AnyFigure, Figure
from pipeline.formats.raw_files import RawFile
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.evaluation.scoring import Scorer
    from pipeline.tokenization.interface import Tokenizer

Row = Mapping[str, Any]  # a record of a published set, parsed from JSON
Item = TypeVar("Item")


@dataclass(frozen=True)
class TaskResult:
    """The scores of a task by name, and a plain record for each item for the JSON report."""

    figures: Mapping[str, AnyFigure]
    items: list[dict[str, object]]


@dataclass(frozen=True)
class HubSource:
    """The location of a set on the Hugging Face hub."""

    repository: str
    configuration: str | None
    split: str


class Task(ABC, Generic[Item]):
    """A set that is read into items and scored."""

    name: ClassVar[str]
    hub: ClassVar[HubSource]

    def choose_files(self, paths: Sequence[Path]) -> Sequence[Path]:
        """The files in the set's folder to score; by default, all of them."""
        return paths

    @abstractmethod
    def read(self, path: Path) -> list[Row]:
        """The validated records of a file.

        Raises:
            PipelineError: the file is empty or malformed.
        """

    @abstractmethod
    def items(self, rows: Iterable[Row], *, is_whole_set: bool) -> list[Item]:
        """The items of all records; with `is_whole_set`, they are scored without a limit."""

    @abstractmethod
    def score(self, scorer: "Scorer", tokenizer: "Tokenizer", items: Sequence[Item]) -> TaskResult: ...


def read_json_lines(path: Path, problem_of: Callable[[Row], str]) -> list[Row]:
    """The records of a JSONL file; `problem_of` returns an empty string for a valid one."""
    rows: list[Row] = []
    with RawFile(path) as file:
        for record in file.records():
            row = record.value
            problem = record.problem if row is None else problem_of(row)
            if row is None or problem:
                raise PipelineError(f"{path}, line {record.number}: {problem}")
            rows.append(row)
    if not rows:
        raise PipelineError(f"{path} is empty; expected one item per line")
    return rows


def accuracy(chances: Iterable[float], *, chance: float = 0.0, note: str = "") -> Figure:
    """The share of correct items, or how far it is above `chance`. An item counts partially if answers tie."""
    return Figure(list(chances), is_yes_no=True, unit="share", chance=chance, note=note)


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of `items`, evenly spread and always the same; all if there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
