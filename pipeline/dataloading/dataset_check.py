"""Verify the files of a token dataset in the background while training runs.

check = BackgroundCheck(dataset)
check.poll()    # raises if damage has been found so far
check.wait()    # returns once every file has been verified
"""

import os
import sys
import threading

from pipeline.formats.token_dataset import TokenDataset
from utils.errors import PipelineError

_NICENESS = 10  # training has priority


class BackgroundCheck:
    """Compare every file with its sha256 in the metadata, in a low-priority daemon thread."""

    def __init__(self, dataset: TokenDataset) -> None:
        self._dataset = dataset
        self._error: PipelineError | None = None
        self._thread = threading.Thread(target=self._run, name="dataset-check", daemon=True)
        self._thread.start()

    def poll(self) -> None:
        """Raise PipelineError, naming the file, if damage has been found so far."""
        if self._error:
            raise self._error

    def wait(self) -> None:
        """Wait until everything is verified; raises like `poll`."""
        self._thread.join()
        self.poll()

    def _run(self) -> None:
        if sys.platform == "linux":  # on other systems, threads have no priority of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            damaged = next(self._dataset.damaged_files(), None)
        except OSError as error:
            self._error = PipelineError(f"token dataset {self._dataset.directory} cannot be read: {error}")
            return
        if damaged:
            self._error = PipelineError(
                f"token file {self._dataset.directory / damaged} is damaged: its sha256 does not match "
                "metadata.json; training has stopped, and its checkpoints were trained on damaged data; copy the file "
                "again, or prepare the dataset again with --restart, then train from scratch"
            )
