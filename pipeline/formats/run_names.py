"""The run name from `--name`: validate it, and name the logs after it."""

import re
from pathlib import Path

from utils.errors import PipelineError


def check_run_name(name: object, *, origin: str) -> str | None:
    """Check a run name, which becomes part of file names, and return it (or None).

    Raises:
        PipelineError: it cannot be part of a file name; `origin` says where it came from.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not _is_path_component(name):
        raise PipelineError(
            f"{origin} {str(name)[:60]!r}: expected a single path component of at most 100 bytes, without / and \\"
        )
    return name


def check_new_run_name(name: str | None) -> None:
    """Check the value of ``--name``.

    Raises:
        PipelineError: as in `check_run_name`, or its logs would have the name of another run's.
    """
    check_run_name(name, origin="--name")
    if name and re.match(r"\d+(_|$)", name):
        raise PipelineError(
            f"--name {name!r}: expected a name that does not begin with a number of its own, because run_..._{name} is "
            f"also the name of logs of another run of the same minute; write it like v{name}"
        )


def log_name(folder: Path, name: str | None) -> str:
    """The name of the logs of the run in `folder`."""
    return f"{folder.name}_{name}" if name else folder.name


def _is_path_component(name: str) -> bool:
    num_bytes = len(name.encode("utf-8", "replace"))
    return 0 < num_bytes <= 100 and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\")
