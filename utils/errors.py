"""The errors that users see as one line, and their did-you-mean hint."""

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """A mistake that the user can fix.

    The message is one line: the thing, what was found, what was expected, and the command that fixes it.
    `utils.cli.run` prints it as ``error: …`` and exits with 1.
    """


class UsageError(PipelineError):
    """An invalid command line. Exits with 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread like Ctrl-C, so that one `except KeyboardInterrupt` handles both."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest match in `known`, or ``""`` if there is none."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
