"""The name that `--name` gives a run."""

from utils.errors import PipelineError


def check_run_name(name: object, *, origin: str) -> str | None:
    """A run's name, which becomes part of the name of its log; raises PipelineError if it is not fit for that."""
    if name is None:
        return None
    fits = isinstance(name, str) and 0 < len(name.encode("utf-8", "replace")) <= 100 and name not in (".", "..")
    if not fits or not name.isprintable() or set(name) & set("/\\"):
        raise PipelineError(
            f"{origin} {str(name)[:60]!r}: expected one part of a path, at most 100 bytes, without / and \\"
        )
    return name
