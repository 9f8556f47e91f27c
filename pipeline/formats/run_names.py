"""The run name from `--name`: validate it, and name the logs after it."""

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


def log_name(folder: Path, name: str | None) -> str:
    """The name of the logs of the run in `folder`."""
    return f"{folder.name}_{name}" if name else folder.name


def _is_path_component(name: str) -> bool:
    num_bytes = len(name.encode("utf-8", "replace"))
    return 0 < num_bytes <= 100 and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\")
