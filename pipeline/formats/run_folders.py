"""Find, list and create the folders of training runs."""

import contextlib
import re
from collections.abc import Iterator
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
        """The checkpoint to continue from: checkpoint_latest.pt, or the newest file if there is none."""
        latest = self.directory / LATEST_NAME
        return latest if latest in self.checkpoints else self.checkpoints[0]


def list_runs(checkpoint_dir: Path) -> list[Run]:
    """All folders with checkpoints, including `checkpoint_dir` itself, the most recently written first."""
    if not checkpoint_dir.is_dir():
        return []
    directories = [checkpoint_dir, *(entry for entry in checkpoint_dir.iterdir() if entry.is_dir())]
    found = [Run(directory, _checkpoints_in(directory)) for directory in directories]
    return sorted((run for run in found if run.checkpoints), key=lambda run: run.modified, reverse=True)


def _checkpoints_in(directory: Path) -> tuple[Path, ...]:
    """Newest first; files with the same time are sorted by name to make the order deterministic."""
    return tuple(sorted(directory.glob("*.pt"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True))


def find_checkpoint(argument: str | Path, checkpoint_dir: Path, *, prefix: str = "") -> Path:
    """Resolve a checkpoint argument: a file, a run's folder (its latest), or ``latest`` (of the newest run).

    If there is no such path, the name is looked up in `checkpoint_dir`. `prefix` (``run_``) limits ``latest`` to run
    folders that start with it, and to checkpoints directly in `checkpoint_dir`.

    Raises:
        PipelineError: there is none; the message lists the existing runs.
    """
    runs = list_runs(checkpoint_dir)
    if str(argument) == "latest":
        fitting = [run for run in runs if run.directory == checkpoint_dir or run.directory.name.startswith(prefix)]
        if not fitting:
            remedy = f"train a model first: python3 main.py train{or_quickstart(checkpoint_dir)}"
            raise PipelineError(f"no checkpoints found in {checkpoint_dir}; {remedy}")
        return fitting[0].newest
    for path in (Path(argument).expanduser(), checkpoint_dir / argument):
        if path.is_file():
            return path
        if path.is_dir():
            return _newest_in(path)
    names = ", ".join(run.directory.name for run in runs[:5]) or "none"
    raise PipelineError(
        f"checkpoint {argument} does not exist; available runs in {checkpoint_dir}: {names}; or use latest"
    )


def _newest_in(directory: Path) -> Path:
    checkpoints = _checkpoints_in(directory)
    if checkpoints:
        return Run(directory, checkpoints).newest
    runs = list_runs(directory)
    if runs:
        return runs[0].newest
    raise PipelineError(f"{directory} contains no {_PATTERN}; expected a checkpoint, a run's folder, or latest")


def new_run_folder(checkpoint_dir: Path, *, prefix: str = "run", now: datetime | None = None) -> Path:
    """Create ``<prefix>_YYYY_MM_DD_HH_MM``, with ``_2``, ``_3``, … if it exists, and return it."""
    stem = f"{prefix}_{now or datetime.now():%Y_%m_%d_%H_%M}"
    make_folder(checkpoint_dir)
    for number in range(1, 10_000):
        folder = checkpoint_dir / (stem if number == 1 else f"{stem}_{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            sync_directory(checkpoint_dir)
            return folder
    raise PipelineError(
        f"{checkpoint_dir} already contains 9,999 runs from the same minute; move some of them elsewhere"
    )


@contextlib.contextmanager
def removed_if_unused(folder: Path) -> Iterator[None]:
    """Remove a new run's folder if the block fails before anything is in it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or never created (a dry run)
            folder.rmdir()
        raise


def prune_step_checkpoints(directory: Path, *, keep_last: int, step: int) -> None:
    """Delete all but the `keep_last` newest checkpoint_step_N.pt of a run that is at `step`.

    Later ones are left alone: the run was resumed from an earlier step and will replace them.
    """
    reached = [path for number, path in step_checkpoints(directory) if number <= step]
    for path in reached[:-keep_last]:
        path.unlink()


def step_checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Every checkpoint_step_N.pt of a run with its N, in the order of N."""
    matches = [(re.fullmatch(r"checkpoint_step_(\d+)\.pt", path.name), path) for path in directory.glob("*.pt")]
    return sorted((int(match[1]), path) for match, path in matches if match)
