"""Send a run's numbers and samples to Weights & Biases or trackio, if `training.tracker` names one.

require_tracker(config.training.tracker)        # before anything is loaded: its package is installed
link = link_to_tracker(config.training, run_name="run_2026_01_31_12_00")  # stored in every checkpoint
tracker = start_tracker(link, config=config.to_dict(), directory=config.paths.log_dir)
tracker.log(10, {"train/loss": 3.2})
tracker.close(failed=False)

trackio has W&B's functions, so both are used through the same three: `init`, `log` and `finish`.
"""

import sys
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline.training.config import TrainingConfig
from utils.errors import PipelineError
from utils.files import make_folder
from utils.packages import is_installed

Link = Mapping[str, str]  # tracker, project, id, name


class TrackerPackage(Protocol):
    """What is used of the packages wandb and trackio."""

    def init(self, **options: object) -> object: ...
    def log(self, values: dict[str, object], **options: object) -> None: ...
    def finish(self, **options: object) -> None: ...


def require_tracker(name: str) -> None:
    """Raise PipelineError if the package of the tracker called `name` is not installed."""
    if name != "none" and not is_installed(name):
        raise PipelineError(
            f"training.tracker is {name}, but the package {name} is not installed for {sys.executable}; run: "
            f"{sys.executable} -m pip install {name}, or pass --set training.tracker=none"
        )


def link_to_tracker(config: TrainingConfig, *, run_name: str, earlier: Mapping[str, Any]) -> dict[str, str] | None:
    """Where this run is recorded; None without a tracker.

    Args:
        earlier: the content of the checkpoint that is resumed, or nothing. If it is linked to the same tracker and
            project, the run continues there.
    """
    if config.tracker == "none":
        return None
    link = earlier.get("tracker") or {}
    if (link.get("tracker"), link.get("project")) == (config.tracker, config.tracker_project):
        return dict(link)
    return {
        "tracker": config.tracker,
        "project": config.tracker_project,
        "id": uuid.uuid4().hex[:12],
        "name": run_name,
    }


def start_tracker(link: Link, *, config: Mapping[str, object], directory: Path) -> "RunTracker":
    """Start recording, or continue a run that has been recorded before.

    Args:
        directory: the folder for W&B's local files. trackio keeps its own in TRACKIO_DIR.

    Raises:
        PipelineError: the package is missing or cannot start, for example without a login.
    """
    name = link["tracker"]
    require_tracker(name)
    options: dict[str, object] = {"project": link["project"], "name": link["name"], "config": config, "resume": "allow"}
    if name == "wandb":
        make_folder(directory)
        options |= {"id": link["id"], "dir": str(directory)}
    try:
        package = cast(TrackerPackage, import_module(name))
        package.init(**options)
    except Exception as error:
        remedies = {"wandb": "log in with: wandb login, or record locally with WANDB_MODE=offline", "trackio": ""}
        remedy = " or ".join(filter(None, (remedies[name], "pass --set training.tracker=none")))
        raise PipelineError(f"training.tracker: {name} did not start: {_reason(error)}; {remedy}") from None
    return RunTracker(package, name)


class RunTracker:
    """Record the numbers and texts of a run until the tracker fails, which is a warning and never stops the run."""

    def __init__(self, package: TrackerPackage, name: str) -> None:
        self.name = name
        self._package: TrackerPackage | None = package
        if name == "wandb":
            # W&B drops numbers of a step below its latest, as after a rollback. It accepts them if the step is a value.
            self._guarded(lambda wandb: cast(Any, wandb).define_metric("*", step_metric="step"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._record(step, dict(values))

    def add_text(self, step: int, name: str, text: str) -> None:
        self._record(step, {name: text})

    def close(self, *, failed: bool) -> None:
        options = {"exit_code": int(failed)} if self.name == "wandb" else {}
        self._guarded(lambda package: package.finish(**options))
        self._package = None

    def _record(self, step: int, values: dict[str, object]) -> None:
        if self.name == "wandb":
            self._guarded(lambda package: package.log({"step": step, **values}))
        else:
            self._guarded(lambda package: package.log(values, step=step))

    def _guarded(self, action: Callable[[TrackerPackage], None]) -> None:
        if self._package is None:
            return
        try:
            action(self._package)
        except Exception as error:
            self._package = None
            reason = f"{_reason(error)}; training continues without it, and {self.name} gets no more of this run"
            print(f"warning: the tracker {self.name} failed: {reason}", file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
