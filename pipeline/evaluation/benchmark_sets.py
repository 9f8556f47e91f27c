"""The list of tasks, and their items: from `benchmark.data_dir`, the hub, or the built-in samples.

`pipeline/formats/benchmark_files.py` describes the layout of the folder.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.evaluation.hellaswag import HellaSwag
from pipeline.evaluation.lambada import Lambada
from pipeline.evaluation.presets import PRESETS
from pipeline.evaluation.task import HubSource, Row, Task, evenly_spaced
from pipeline.evaluation.wikitext_perplexity import WikiText
from pipeline.formats.benchmark_files import PATTERNS, files_sha256, set_files
from utils.errors import PipelineError

SAMPLES_DIR = Path(__file__).parent / "samples"
# Any: each task has its own type of items, and only gets those.
TASKS: dict[str, Task[Any]] = {task.name: task for task in (WikiText(), Lambada(), HellaSwag())}


@dataclass(frozen=True)
class BenchmarkSet:
    """The items of a set.

    Args:
        origin: the source, for the reports.
        files: file name → sha256; empty for a set from the hub.
        total: the number of items in the set, before the preset's limit.
        comparable: whether the scores can be compared with published ones.
    """

    name: str
    items: Sequence[Any]
    origin: str
    files: dict[str, str]
    total: int
    comparable: bool


class _Records(NamedTuple):
    rows: list[Row]
    files: dict[str, str]
    origin: str


def load_sets(names: Iterable[str], *, data_dir: Path | None, preset: str, offline_samples: bool) -> list[BenchmarkSet]:
    """The sets called `names`, limited by `preset`. Without `data_dir`, they are downloaded from the hub.

    Raises:
        PipelineError: a file is missing, empty or malformed, or the hub cannot be reached.
    """
    folder = SAMPLES_DIR if offline_samples else data_dir
    return [_load_set(TASKS[name], folder, PRESETS[preset].get(name), is_sample=offline_samples) for name in names]


def _load_set(task: Task[Any], folder: Path | None, limit: int | None, *, is_sample: bool) -> BenchmarkSet:
    records = _records_from_files(task, folder) if folder else _records_from_hub(task.hub)
    items = task.items(records.rows, is_whole_set=limit is None)
    return BenchmarkSet(
        name=task.name,
        items=evenly_spaced(items, limit or len(items)),
        origin="the built-in sample" if is_sample else records.origin,
        files=records.files,
        total=len(items),
        comparable=not is_sample and limit is None,
    )


def _records_from_files(task: Task[Any], folder: Path) -> _Records:
    name = task.name
    paths = task.choose_files(set_files(folder, name))
    if not paths:
        expected = f"{name}/{PATTERNS[name]}"
        raise PipelineError(
            f"benchmark.data_dir {folder} does not contain {expected}; put the dataset there, or set "
            "benchmark.data_dir to null to download it"
        )
    rows = [row for path in paths for row in task.read(path)]
    return _Records(rows, files_sha256(paths), ", ".join(f"{name}/{path.name}" for path in paths))


def _records_from_hub(source: HubSource) -> _Records:
    """Download a set with `datasets`, which caches it."""
    from datasets import load_dataset

    try:
        rows = list(load_dataset(source.repository, source.configuration, split=source.split))
    except Exception as error:  # the library's request, hub and parsing errors have no common base class
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"{source.repository} could not be downloaded from the Hugging Face hub ({reason}); pass a folder "
            "containing the datasets with --data-dir DIR, or use the small built-in samples with "
            "--offline-samples"
        ) from None
    return _Records(rows, {}, f"{source.repository} ({source.split}) from the hub")
