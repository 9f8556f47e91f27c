"""Write files atomically: they exist complete or not at all.

with whole_file(path) as file:          # a binary file under a temporary name next to it
    np.save(file, array)
write_json(folder / "metadata.json", metadata)
move_into_place(temporary, path)        # a file that another program's writer has finished
remove_stale_temporaries(folder, "metadata.json", "tokens_*.npy")   # left by a killed process
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from utils.errors import PipelineError

_TEMPORARY_NAME = re.compile(r"\.(?P<target>.+)\.(?P<pid>\d+)\.tmp")


def temporary_path(path: Path) -> Path:
    """The name under which this process writes `path` until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def whole_file(path: Path, *, other_names: Sequence[str] = ()) -> Iterator[BinaryIO]:
    """Open a file that is synced and renamed to `path` on success, and removed on error.

    Args:
        other_names: additional names for the file in the same folder. They are set before `path`, so if the new file
            exists as `path`, it also exists under the other names.
    """
    make_folder(path.parent)
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        for name in other_names:
            link_file(temporary, path.with_name(name))
        os.replace(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy on file systems without them."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # no hard links on this file system (exFAT, some network drives)
            with source.open("rb") as original, temporary.open("wb") as copy:
                shutil.copyfileobj(original, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # renaming one name of a file to another name of it leaves both
    sync_directory(target.parent)


def move_into_place(finished: Path, path: Path) -> None:
    """Force a `finished` file, which another program's writer has closed, to disk and give it the name `path`."""
    sync_file(finished)
    os.replace(finished, path)
    sync_directory(path.parent)


def use_default_mode(path: Path) -> None:
    """Give a file the mode of new files (the umask's), because some programs make theirs private."""
    new = temporary_path(path)
    new.touch()
    try:
        shutil.copymode(new, path)
    finally:
        new.unlink()


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, and sync them so that they survive a power cut."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync_directory(place.parent)


def sync_file(path: Path) -> None:
    """Sync a file to disk that another program wrote without syncing."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Sync the names in `directory`, if its file system supports that, so that they survive a power cut."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write `content` as readable JSON: indented, keys in order, characters unescaped."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def free_disk(folder: Path) -> int:
    """Free bytes on the disk where `folder`, which may not exist yet, will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def is_within(path: Path, folder: Path) -> bool:
    """True if `path` is `folder` or is below it, after resolving links."""
    resolved = path.resolve()
    return folder.exists() and any(
        ancestor.samefile(folder) for ancestor in (resolved, *resolved.parents) if ancestor.exists()
    )


def refuse_overwriting(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise a PipelineError if one of `inputs` is about to be overwritten."""
    written = {path.resolve() for path in outputs}
    for path in inputs:
        if path.resolve() in written:
            raise PipelineError(f"{path} is an input file and would be overwritten; choose a different output folder")


def remove_stale_temporaries(directory: Path, *names: str) -> list[Path]:
    """Remove temporaries of `names` (wildcards allowed) that killed processes left in `directory`.

    Call it before this process writes there. It leaves the temporaries of running processes alone, and files whose
    names do not follow `temporary_path`. Returns the removed paths.
    """
    removed = []
    for path in directory.iterdir() if directory.is_dir() else ():
        parts = _TEMPORARY_NAME.fullmatch(path.name)
        if parts is None or not any(fnmatchcase(parts["target"], name) for name in names):
            continue
        if _is_running(int(parts["pid"])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def _is_running(pid: int) -> bool:
    """True if another process has this id. A temporary with our own id is from an earlier process."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is running under another user
        return True
    return True
