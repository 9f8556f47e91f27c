"""The errors that a user sees as one line, and the nearest-name hint they carry."""

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """Something the user can mend.

    The message is one line: the thing, what was found, what was wanted, and the command that mends it.
    `utils.cli.run` prints it as ``error: …`` and exits with 1.
    """


class UsageError(PipelineError):
    """A command line that cannot be carried out; exits with 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread like Ctrl-C, so that one `except KeyboardInterrupt` saves state for both."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of `known`, or ``""`` where none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
