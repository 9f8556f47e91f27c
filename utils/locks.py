"""A folder that one run at a time may write to.

with only_run(folder, f"{folder} is in use by another training run; wait for it, or stop it", patience=5.0):
    …

The lock is the system's (flock on the folder itself): no file is left behind, and it ends with the process, however
that ends.
"""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import PipelineError

_UNSUPPORTED = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network drives


@contextmanager
def only_run(folder: Path, refusal: str, *, patience: float) -> Iterator[None]:
    """Hold `folder` while the block runs.

    Args:
        refusal: the error's text if another run holds the folder.
        patience: seconds to wait, as the processes of a killed run may outlive it by a moment.

    Raises:
        PipelineError: another run holds the folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, refusal, time.monotonic() + patience)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, refusal: str, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PipelineError(refusal) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            note = f"warning: {folder} cannot be locked on this file system: make sure that no other run writes to it"
            return print(note, file=sys.stderr)
