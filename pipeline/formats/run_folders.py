"""The folders of training runs: named by their time, listed newest first, found by a file, a folder or ``latest``."""

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.quickstart_hint import or_quickstart
from utils.errors import PipelineError
from utils.files import make_folder, sync_directory

LATEST_NAME = "checkpoint_latest.pt"
_PATTERN = "checkpoint_*.pt"


@dataclass(frozen=True)
class Run:
    """A folder with checkpoints, the newest one first."""

    directory: Path
    checkpoints: tuple[Path, ...]

    @property
    def modified(self) -> float:
        return self.checkpoints[0].stat().st_mtime

    @property
    def newest(self) -> Path:
        """Where the run continues: at its latest checkpoint, or at the newest file if none has that name."""
        latest = self.directory / LATEST_NAME
        return latest if latest in self.checkpoints else self.checkpoints[0]


def list_runs(checkpoint_dir: Path) -> list[Run]:
    """Every folder that holds checkpoints, `checkpoint_dir` itself included; the one written last comes first."""
    if not checkpoint_dir.is_dir():
        return []
    directories = [checkpoint_dir, *(entry for entry in checkpoint_dir.iterdir() if entry.is_dir())]
    found = [Run(directory, _checkpoints_in(directory)) for directory in directories]
    return sorted((run for run in found if run.checkpoints), key=lambda run: run.modified, reverse=True)


def _checkpoints_in(directory: Path) -> tuple[Path, ...]:
    """Newest first; the name decides between files of one moment, so that the order is the same every time."""
    return tuple(sorted(directory.glob("*.pt"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True))


def find_checkpoint(argument: str | Path, checkpoint_dir: Path, *, prefix: str = "") -> Path:
    """The file that a checkpoint argument means: a file, a run's folder (its latest), or ``latest`` (the newest run's).

    A name that is not found as a path is looked for in `checkpoint_dir`. `prefix` (``run_``) limits ``latest`` to runs
    whose folder's name starts with it, and to flat checkpoints.

    Raises:
        PipelineError: there is none; names what there is.
    """
    runs = list_runs(checkpoint_dir)
    if str(argument) == "latest":
        fitting = [run for run in runs if run.directory == checkpoint_dir or run.directory.name.startswith(prefix)]
        if not fitting:
            remedy = f"train a model first: python3 main.py train{or_quickstart(checkpoint_dir)}"
            raise PipelineError(f"no checkpoint in {checkpoint_dir}; {remedy}")
        return fitting[0].newest
    for path in (Path(argument).expanduser(), checkpoint_dir / argument):
        if path.is_file():
            return path
        if path.is_dir():
            return _newest_in(path)
    names = ", ".join(run.directory.name for run in runs[:5]) or "none"
    raise PipelineError(f"checkpoint {argument} does not exist; runs in {checkpoint_dir}: {names}; or say: latest")


def _newest_in(directory: Path) -> Path:
    checkpoints = _checkpoints_in(directory)
    if checkpoints:
        return Run(directory, checkpoints).newest
    runs = list_runs(directory)
    if runs:
        return runs[0].newest
    raise PipelineError(f"{directory} holds no {_PATTERN}; name a checkpoint, a run's folder, or: latest")


def new_run_folder(checkpoint_dir: Path, *, prefix: str = "run", now: datetime | None = None) -> Path:
    """Makes and returns ``<prefix>_YYYY_MM_DD_HH_MM``, with ``_2``, ``_3``, … where that minute has one already."""
    stem = f"{prefix}_{now or datetime.now():%Y_%m_%d_%H_%M}"
    make_folder(checkpoint_dir)
    for number in range(1, 10_000):
        folder = checkpoint_dir / (stem if number == 1 else f"{stem}_{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            sync_directory(checkpoint_dir)
            return folder
    raise PipelineError(f"{checkpoint_dir} holds 9,999 runs of one minute; move some of them away")


def prune_step_checkpoints(directory: Path, *, keep_last: int, step: int) -> None:
    """Deletes all but the `keep_last` newest checkpoint_step_N.pt of a run that is at `step`.

    Later ones are left alone: the run was resumed from before them and replaces them when it gets there.
    """
    numbered = [(step_of(path), path) for path in directory.glob("checkpoint_step_*.pt")]
    reached = sorted((number, path) for number, path in numbered if number is not None and number <= step)
    for _, path in reached[:-keep_last]:
        path.unlink()


def step_of(path: Path) -> int | None:
    """N of checkpoint_step_N.pt, None for other names."""
    match = re.fullmatch(r"checkpoint_step_(\d+)\.pt", path.name)
    return int(match[1]) if match else None
