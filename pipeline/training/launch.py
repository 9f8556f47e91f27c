"""Start the processes of ``main.py train --nproc N`` with torch's launcher, without its log and traceback.

python3 pipeline/training/launch.py --standalone --nproc-per-node=2 train.py …

A process that fails prints its one-line error, which the launcher's long output would bury. The exit code is that of
the process that failed first, or of the signal.
"""

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as launch

    logging.disable(logging.ERROR)  # in this process only
    try:
        launch(list(argv))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        memory = " (the system may have run out of memory)" if failure.exitcode == -signal.SIGKILL else ""
        print(f"error: process {rank} was killed by {signal.Signals(-failure.exitcode).name}{memory}", file=sys.stderr)
        return 128 - failure.exitcode
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the checkout, not this folder
    from utils.cli import exit_code_of

    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
