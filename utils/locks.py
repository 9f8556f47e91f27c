"""Lock a folder so that only one run writes to it at a time.

with only_run(folder, f"{folder} is in use by another training run; wait for it or stop it", patience=5.0):
    …

The lock is a system lock (flock on the folder itself): it leaves no file behind, and the system releases it when the
process ends.
"""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.errors import PipelineError

_UNSUPPORTED = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network drives


@dataclass(frozen=True)
class FolderLock:
    """A folder locked by this run."""

    folder: Path
    handle: int
    refusal: str

    def take(self, patience: float) -> None:
        """Wait up to `patience` seconds for other runs to end.

        Raises:
            PipelineError: another run still holds the folder.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PipelineError(self.refusal) from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                print(
                    f"warning: {self.folder} cannot be locked on this file system; make sure that no other run writes "
                    "to it",
                    file=sys.stderr,
                )
                return

    def admit_workers(self) -> None:
        """Let other processes of this run hold the folder too (`part_of_run`), but not other runs."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # changing a lock is not atomic; another run took it
            raise PipelineError(self.refusal) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


@contextmanager
def only_run(folder: Path, refusal: str, *, patience: float) -> Iterator[FolderLock]:
    """Hold `folder` while the block runs.

    Args:
        refusal: the error message if another run holds the folder.
        patience: seconds to wait, because the processes of a killed run may take a moment to exit.

    Raises:
        PipelineError: another run holds the folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock = FolderLock(folder, handle, refusal)
        lock.take(patience)
        yield lock
    finally:
        os.close(handle)


@contextmanager
def part_of_run(folder: Path) -> Iterator[None]:
    """Share the run's lock on `folder` with this worker process until it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # if the file system has no locks, the run has already warned
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)
