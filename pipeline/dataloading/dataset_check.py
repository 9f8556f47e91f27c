"""Verifies the files of a token dataset while training has already begun.

check = BackgroundCheck(dataset)
check.poll()    # raises if damage has been found so far
check.wait()    # returns once every file has been verified
"""

import os
import sys
import threading

from pipeline.formats.token_dataset import TokenDataset
from utils.errors import PipelineError

_NICENESS = 10  # training goes first


class BackgroundCheck:
    """Compares every file with the sha256 in the metadata, in a thread of low priority that ends with the process."""

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
        """Return once everything is verified; raise as `poll` does."""
        self._thread.join()
        self.poll()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            damaged = next(self._dataset.damaged_files(), None)
        except OSError as error:
            self._error = PipelineError(f"token dataset {self._dataset.directory} cannot be read: {error}")
            return
        if damaged:
            self._error = PipelineError(
                f"token file {self._dataset.directory / damaged} is damaged: its sha256 is not the one in "
                "metadata.json; training has stopped, and what it saved was trained on the damage; copy the file "
                "again, or make the dataset again with --restart, then train from scratch"
            )
