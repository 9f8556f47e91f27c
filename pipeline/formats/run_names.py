"""The name that `--name` gives a run."""

from utils.errors import PipelineError


def check_run_name(name: object, *, origin: str) -> str | None:
    """`name`, which becomes a part of file names, or None.

    Raises:
        PipelineError: it cannot be a part of a file name; `origin` says where it came from.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not _is_path_component(name):
        raise PipelineError(
            f"{origin} {str(name)[:60]!r}: expected one part of a path, at most 100 bytes, without / and \\"
        )
    return name


def _is_path_component(name: str) -> bool:
    num_bytes = len(name.encode("utf-8", "replace"))
    return 0 < num_bytes <= 100 and name not in (".", "..") and name.isprintable() and not set(name) & set("/\\")
