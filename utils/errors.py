"""The errors that a user sees as one line, and the nearest-name hint they carry."""

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """A mistake that the user can fix.

    The message is one line: the thing, what was found, what was expected, and the command that fixes it.
    `utils.cli.run` prints it as ``error: …`` and exits with 1.
    """


class UsageError(PipelineError):
    """An invalid command line; exits with 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread like Ctrl-C, so that one `except KeyboardInterrupt` saves state for both."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of `known`, or ``""`` if none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
