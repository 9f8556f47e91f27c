"""The command-line options common to all stages, and the single place that turns exceptions into exit codes.

    if __name__ == "__main__":
        run(main)

Exit codes: 0 done, 1 ``error: …`` on standard error, 2 usage, 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.errors import PipelineError, Terminated, UsageError
from utils.packages import is_installed, missing_package_problem
from utils.stage_parser import StageParser
from utils.terminal import fitted, visible

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


def stage_parser(description: str | None) -> StageParser:
    """An argument parser with the options of every stage: ``--config``, ``--set``, ``--debug``.

    An option that sets a configuration key has that key as its ``dest``, where `load_config_from` finds it:

        parser.add_argument("--lr", dest="sft.learning_rate", metavar="RATE", type=float, help="…")
    """
    return StageParser(description)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and exit with its return value, or with the exit code for its exception."""
    signal.signal(signal.SIGTERM, _raise_terminated)
    # A shell starts background jobs with SIGINT ignored; `kill -INT` must still let a stage save.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(exit_code_of(main, debug="--debug" in sys.argv[1:]))


def exit_code_of(main: Callable[[], int | None], *, debug: bool = False) -> int:
    try:
        code = main() or EXIT_OK
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _report(error, EXIT_USAGE, debug)
    except PipelineError as error:
        return _report(error, EXIT_ERROR, debug)
    except BrokenPipeError:
        # The reader (such as `| head`) is gone; discarding buffered output is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Terminated:
        print("terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        return _report(error, EXIT_ERROR, debug)
    except Exception as error:
        problem = missing_package_problem(error) if isinstance(error, ImportError) else None
        if problem is None:
            hint = "" if debug else "; this is a bug: run again with --debug for the traceback"
            problem = f"unexpected {type(error).__name__}: {error}{hint}"
        return _report(PipelineError(problem), EXIT_ERROR, debug)


def require_package(name: str) -> None:
    """Exit with a one-line error instead of a traceback if the package `name` is missing."""
    if not is_installed(name):
        error = ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.exit(_report(PipelineError(missing_package_problem(error)), EXIT_ERROR, debug=False))


def _report(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    message = visible(" ".join(str(error).split()))  # it may quote the contents of a file
    # a single write, because several processes may fail at the same time
    sys.stderr.write(fitted(f"error: {message}", stream=sys.stderr) + "\n")
    return code


def _raise_terminated(signum: int, frame: object) -> NoReturn:
    raise Terminated
