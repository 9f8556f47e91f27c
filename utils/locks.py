"""A folder that one run at a time may write to.

with only_run(folder, f"{folder} is in use by another training run; wait for it, or stop it", patience=5.0):
    …

The lock is the system's (flock on the folder itself): it leaves no file behind, and ends with the process, however that
ends.
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
    """A folder that this run holds."""

    folder: Path
    handle: int
    refusal: str

    def take(self, patience: float) -> None:
        """Wait up to `patience` seconds for other runs to end.

        Raises:
            PipelineError: one still holds the folder.
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
                    f"warning: {self.folder} cannot be locked on this file system: make sure that no other run writes "
                    "to it",
                    file=sys.stderr,
                )
                return

    def admit_workers(self) -> None:
        """Let this run's other processes hold the folder too (`part_of_run`); other runs still cannot."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # changing a lock is not atomic: another run was faster
            raise PipelineError(self.refusal) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise


@contextmanager
def only_run(folder: Path, refusal: str, *, patience: float) -> Iterator[FolderLock]:
    """Hold `folder` while the block runs.

    Args:
        refusal: the error's text if another run holds the folder.
        patience: seconds to wait, because the processes of a killed run may outlive it by a moment.

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
    """Hold `folder` together with the run that this worker process belongs to, until the process ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # the run has said if the file system has no locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)
