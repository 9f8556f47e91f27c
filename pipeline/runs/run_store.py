"""Find the runs in ``paths.log_dir`` and ``paths.checkpoint_dir``, and keep what was read of them.

    store = RunStore(config.paths)
    store.refresh()                      # cheap: reads only what changed
    store.summaries()["run_2026_01_31_12_00"]

Nothing is written, and no checkpoint is loaded: their names, sizes and times are enough.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.configuration import PathsConfig
from pipeline.runs.run_log import RunLog
from pipeline.runs.run_summary import RunSummary, shown_summary
from utils.raw_log import raw_metrics_path

MAX_OPEN_LOGS = 24  # logs that are kept in memory as a whole
_TUNED_PREFIX = "sft_"


@dataclass(frozen=True)
class CheckpointFile:
    name: str
    num_bytes: int
    modified: float


@dataclass
class RunStore:
    """All runs, by the name of their log, or of their folder if they have no log."""

    paths: PathsConfig
    _summaries: dict[str, RunSummary] = field(default_factory=dict)
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _folders: dict[str, tuple[int, tuple[CheckpointFile, ...]]] = field(default_factory=dict)
    _logs: dict[str, RunLog] = field(default_factory=dict)
    _shown: dict[str, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read_at: float = 0.0

    @property
    def log_folder(self) -> Path:
        return self.paths.log_dir / "raw_metrics"

    def refresh(self, *, max_age: float = 0.0) -> None:
        """Look for changes, unless somebody looked less than `max_age` seconds ago."""
        with self._lock:
            if time.monotonic() - self._read_at < max_age:
                return
            self._read_folders()
            self._read_logs()
            self._shown = self._show()
            self._read_at = time.monotonic()

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Run → its line in the list, the most recent first."""
        return self._shown

    def log(self, run: str) -> RunLog | None:
        """The whole log of a run, up to date; None if it has none."""
        if run not in self._summaries:
            return None
        with self._lock:
            log = self._logs.pop(run, None) or RunLog(raw_metrics_path(self.paths.log_dir, run))
            self._logs[run] = log
            while len(self._logs) > MAX_OPEN_LOGS:
                self._logs.pop(next(iter(self._logs)))
        log.refresh()
        return log

    def checkpoints(self, run: str) -> tuple[CheckpointFile, ...]:
        """The checkpoints of a run, the newest first."""
        _, files = self._folders.get(self.folder_of(run), (0, ()))
        return files

    def folder_of(self, run: str) -> str:
        """The checkpoint folder of a log: ``run_2026_01_31_12_00`` of ``run_2026_01_31_12_00_first``."""
        parts = run.split("_")
        names = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((name for name in names if name in self._folders), run)

    def _read_folders(self) -> None:
        found = {}
        root = self.paths.checkpoint_dir
        for name, path in [(root.name, root), *((entry.name, Path(entry.path)) for entry in _entries(root))]:
            with suppress(OSError):
                status = path.stat()
                known = self._folders.get(name)
                # Writing a checkpoint renames it, which changes the folder's time.
                files = known[1] if known and known[0] == status.st_mtime_ns else _checkpoint_files(path)
                if path != root or files:
                    found[name] = (status.st_mtime_ns, files)
        self._folders = found

    def _read_logs(self) -> None:
        found: dict[str, tuple[int, int]] = {}
        for entry in _entries(self.log_folder, folders=False):
            name, suffix = os.path.splitext(entry.name)
            if suffix != ".jsonl" or name.startswith("."):
                continue
            with suppress(OSError):
                status = entry.stat()
                found[name] = (status.st_size, status.st_mtime_ns)
                if self._sizes.get(name) != found[name]:
                    self._summaries.setdefault(name, RunSummary(Path(entry.path))).refresh()
        for name in set(self._summaries) - set(found):
            del self._summaries[name]
            self._logs.pop(name, None)
        self._sizes = found

    def _show(self) -> dict[str, dict[str, Any]]:
        shown = {}
        for name, summary in self._summaries.items():
            if not summary.facts.get("updated"):
                continue  # a foreign file
            folder = self.folder_of(name)
            locked = False if summary.ended else self._is_locked(folder)
            version = f"{self._sizes[name][0]}-{self._sizes[name][1]}"
            shown[name] = {**shown_summary(summary, locked=locked), "folder": folder, "version": version}
        with_logs = {facts["folder"] for facts in shown.values()}
        for folder, (_, files) in self._folders.items():
            if folder not in with_logs and files:
                facts = {"state": "no log", "detail": "", "updated": files[0].modified, "version": ""}
                shown[folder] = {**facts, "folder": folder}
        results = _modified(self.paths.benchmark_dir)
        for name, facts in shown.items():
            facts |= {
                "results": results,
                "name": name,
                "kind": "fine-tuning" if name.startswith(_TUNED_PREFIX) else "pretraining",
            }
            facts["checkpoints"] = len(self.checkpoints(name))
        return dict(sorted(shown.items(), key=lambda item: item[1]["updated"], reverse=True))

    def _is_locked(self, folder: str) -> bool | None:
        """Whether a training run holds the folder; None if it is gone or its file system has no locks.

        The lock taken to find out is shared and released at once; a run that starts meanwhile waits for it.
        """
        try:
            handle = os.open(self.paths.checkpoint_dir / folder, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        except OSError:
            return None
        finally:
            os.close(handle)


def _entries(folder: Path, *, folders: bool = True) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir() == folders]
    except OSError:
        return []


def _modified(folder: Path) -> str:
    """The time of a folder, which changes when a file is added; empty if there is no folder."""
    try:
        return str(folder.stat().st_mtime_ns)
    except OSError:
        return ""


def _checkpoint_files(folder: Path) -> tuple[CheckpointFile, ...]:
    files = []
    for entry in _entries(folder, folders=False):
        if entry.name.endswith(".pt"):
            with suppress(OSError):  # deleted meanwhile
                status = entry.stat()
                files.append(CheckpointFile(entry.name, status.st_size, status.st_mtime))
    return tuple(sorted(files, key=lambda file: (file.modified, file.name), reverse=True))
