"""Record the finished stages of a quickstart, so that it can continue after an interruption.

    record = FinishedStages(Path("quickstart/progress.json"))
    if not record.has(key):
        record.add(key, name="train", seconds=200.0, outcome="850 steps", run=folder)

A stage's key is a checksum of everything that affects its result, including the key of the stage before it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.formats.run_folders import LATEST_NAME
from utils.files import write_json


@dataclass(frozen=True)
class FinishedStage:
    name: str
    seconds: float
    outcome: str
    run: str = ""  # the run's folder, if it trained


class FinishedStages:
    """Finished stages and started training runs, by key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, FinishedStage] = {}
        self._begun: dict[str, list[str]] = {}  # the run folders that existed when a stage started
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self._done = {key: FinishedStage(**value) for key, value in content["done"].items()}
            self._begun = dict(content["begun"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError):
            # If it is damaged, nothing counts as done; every stage can be repeated.
            self._done = {}
            self._begun = {}

    def find(self, key: str, outputs: Iterable[Path]) -> FinishedStage | None:
        """The stage, if it is done and its output still exists."""
        stage = self._done.get(key)
        if stage is None or not all(path.exists() for path in outputs):
            return None
        return stage if not stage.run or Path(stage.run).is_dir() else None

    def add(self, key: str, stage: FinishedStage) -> None:
        self._done[key] = stage
        self._begun.pop(key, None)
        self._write()

    def begin_run(self, key: str, folders: Iterable[Path]) -> None:
        """Record the start of a training stage; `folders` are the existing runs."""
        self._begun[key] = sorted(path.name for path in folders)
        self._write()

    def new_run(self, key: str, folders: Iterable[Path]) -> Path | None:
        """The run folder created since the stage started, if it has a checkpoint to continue from."""
        if key not in self._begun:
            return None
        new = [path for path in sorted(folders) if path.name not in self._begun[key]]
        return next((path for path in reversed(new) if (path / LATEST_NAME).exists()), None)

    def forget(self) -> None:
        self._done = {}
        self._begun = {}
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"done": {key: asdict(stage) for key, stage in self._done.items()}, "begun": self._begun})


def stage_key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
