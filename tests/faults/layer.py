"""A layer under the file operations of this process that makes one of them fail, tear, or be the last.

    layer = FaultLayer(folder, scratch, Fault("torn write", 17))
    layer.install()         # permanent: for a process forked to run one stage

Operations are counted from 0, and only below `folder`: open for writing, each write that reaches the system, truncate,
fsync, rename, link, unlink, mkdir and rmdir. Reading is not affected. After a power cut, only synced data is certain: a
file's content as of its fsync, a name in a folder as of the folder's fsync.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from stat import S_ISDIR
from typing import NoReturn

from numpy.lib import _format_impl

KILLED = 99  # exit code of a process ended by a fault

KILL, TORN, INPUT_OUTPUT, FULL = "kill", "torn write", "EIO", "disk full"
DATA_LOST = "power cut, data lost"  # unsynced data becomes zeros
NAMES_LOST, SOME_LOST = "power cut, names lost", "power cut, names of one folder lost"
POWER_CUTS = (DATA_LOST, NAMES_LOST, SOME_LOST)
KINDS = (KILL, TORN, INPUT_OUTPUT, FULL, *POWER_CUTS)
_NEEDS_SPACE = ("open", "write", "mkdir", "link", "rename")
_UNCOUNTED = "tensorboard"  # written by a separate thread, so the order varies


@dataclass(frozen=True)
class Fault:
    """A fault of `kind` at operation number `at`; a power cut can also happen right after the last operation."""

    kind: str
    at: int

    def fits(self, operation: str) -> bool:
        """Whether this kind of fault applies to such an operation."""
        if self.kind == TORN:
            return operation == "write"
        return self.kind != FULL or operation in _NEEDS_SPACE


class FaultLayer:
    """Count the operations below `root`, record them in `trace`, and inject `fault`."""

    def __init__(self, root: Path, scratch: Path, fault: Fault | None = None) -> None:
        self.root = os.path.realpath(root)
        self.scratch = scratch
        self.fault = fault
        self.trace: list[str] = []
        self.fired = False
        self._undo: list[tuple[str, Callable[[], None]]] = []  # (folder, how to undo the latest change of its names)
        self._numbers = count()
        self._synced = {inode: state for _, inode, state in self._files()}
        scratch.mkdir(parents=True, exist_ok=True)

    def install(self) -> None:
        real = _Real()
        self.real = real
        builtins.open = io.open = self._open
        os.open = self._os_open
        os.fsync = self._fsync
        os.sendfile = self._sendfile
        os.replace = os.rename = self._rename
        os.link = self._link
        os.mkdir = self._mkdir
        os.rmdir = self._rmdir
        os.unlink = os.remove = self._unlink
        # NumPy would write arrays to a real file in C, bypassing this layer.
        is_real_file = _format_impl.isfileobj
        _format_impl.isfileobj = lambda file: is_real_file(file) and not isinstance(file, io.BufferedWriter)

    def end(self) -> None:
        """The stage is over; a power cut can happen now."""
        if self.fault and self.fault.kind in POWER_CUTS and self.fault.at == len(self.trace):
            self._die()

    # ---- fault injection

    def operation(self, name: str, path: str, tear: Callable[[], object] = lambda: None) -> None:
        """Count the operation on `path` that is about to happen, or inject its fault.

        Args:
            tear: performs half of it.
        """
        if self._is_full(name):
            if not self.fired:
                self._fire()
                tear()
            raise _error(errno.ENOSPC, name, path)
        if _UNCOUNTED in path.split(os.sep):
            return
        index = len(self.trace)
        self.trace.append(f"{name} {os.path.relpath(path, self.root)}")
        if self.fault is None or index != self.fault.at:
            return
        if self.fault.kind == INPUT_OUTPUT:
            self._fire()
            raise _error(errno.EIO, name, path)
        if self.fault.kind == TORN:
            tear()
        self._die()

    def _is_full(self, name: str) -> bool:
        """Whether the disk is full, which it stays from the fault's operation on."""
        fault = self.fault
        return fault is not None and fault.kind == FULL and len(self.trace) >= fault.at and fault.fits(name)

    def _fire(self) -> None:
        self.fired = True
        descriptor = self.real.os_open(self.scratch / "fired", os.O_CREAT | os.O_WRONLY)
        os.close(descriptor)

    def _die(self) -> NoReturn:
        self._fire()
        if self.fault.kind == DATA_LOST:
            self._lose_data()
        elif self.fault.kind in POWER_CUTS:
            self._lose_names()
        os._exit(KILLED)

    def _lose_data(self) -> None:
        """Unsynced files keep their size, but their second half becomes zeros."""
        for path, inode, (size, modified) in self._files():
            kept, when = self._synced.get(inode, (0, 0))
            if (kept, when) != (size, modified) and size > kept:
                start = kept + (size - kept) // 2
                with self.real.open(path, "r+b") as file:
                    file.seek(start)
                    file.write(bytes(size - start))

    def _lose_names(self) -> None:
        folders = sorted({folder for folder, _ in self._undo})
        if self.fault.kind == SOME_LOST and folders:
            folders = [folders[self.fault.at % len(folders)]]
        for folder, undo in reversed(self._undo):
            if folder not in folders:
                continue
            with suppress(OSError):  # its folder is already lost
                undo()

    def _files(self) -> list[tuple[str, int, tuple[int, int]]]:
        found = []
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                stat = os.lstat(path)
                found.append((path, stat.st_ino, (stat.st_size, stat.st_mtime_ns)))
        return found

    # ---- the operations

    def _inside(self, path: object, dir_fd: int | None = None) -> str | None:
        """The absolute path if it is below the root, else None."""
        if isinstance(path, int):
            absolute = os.readlink(f"/proc/self/fd/{path}")
        else:
            base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            absolute = os.path.normpath(os.path.join(base, os.fsdecode(path)))
        return absolute if absolute.startswith(self.root + os.sep) else None

    def _changes_name(self, path: str, undo: Callable[[], None]) -> None:
        self._undo.append((os.path.dirname(path), undo))

    def _kept(self, path: str) -> str | None:
        """Another name for the file at `path`, outside of the root, from which it can be restored."""
        if not os.path.isfile(path):
            return None
        copy = str(self.scratch / f"kept_{next(self._numbers)}")
        self.real.link(path, copy)
        return copy

    def _open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        path = self._inside(file) if set(mode) & set("wax+") else None
        if path is None:
            return self.real.open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            self._creates(path)
        raw = _File(self, path, file, mode.replace("b", "").replace("t", ""), closefd)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)

    def _os_open(self, path, flags, mode=0o777, *, dir_fd=None):
        inside = self._inside(path, dir_fd) if flags & os.O_CREAT else None
        if inside is not None:
            self._creates(inside)
        return self.real.os_open(path, flags, mode, dir_fd=dir_fd)

    def _creates(self, path: str) -> None:
        is_new = not os.path.exists(path)
        self.operation("open", path)
        if is_new:
            self._changes_name(path, lambda: self.real.unlink(path))

    def _fsync(self, descriptor):
        descriptor = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if not (path + os.sep).startswith(self.root + os.sep):
            return self.real.fsync(descriptor)
        self.operation("fsync", path)
        stat = os.fstat(descriptor)
        if S_ISDIR(stat.st_mode):
            self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]
        else:
            self._synced[stat.st_ino] = (stat.st_size, stat.st_mtime_ns)
        return None  # skip the real sync, because only simulated power cuts happen

    def _sendfile(self, target, source, offset, count, *more, **named):
        path = self._inside(target)
        if path is not None:
            self.operation("write", path, lambda: self.real.sendfile(target, source, offset, max(1, count // 2)))
        return self.real.sendfile(target, source, offset, count, *more, **named)

    def _rename(self, source, target, *, src_dir_fd=None, dst_dir_fd=None):
        old, new = self._inside(source, src_dir_fd), self._inside(target, dst_dir_fd)
        if old is None or new is None:
            return self.real.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.operation("rename", new)
        replaced = self._kept(new)
        self.real.rename(old, new)

        def undo() -> None:
            self.real.rename(new, old)
            if replaced is not None:
                self.real.rename(replaced, new)

        return self._changes_name(new, undo)

    def _link(self, source, target, **named):
        path = self._inside(target)
        if path is None:
            return self.real.link(source, target, **named)
        self.operation("link", path)
        self.real.link(source, target)
        return self._changes_name(path, lambda: self.real.unlink(path))

    def _unlink(self, path, *, dir_fd=None):
        inside = self._inside(path, dir_fd)
        if inside is None or not os.path.lexists(inside):
            return self.real.unlink(path, dir_fd=dir_fd)
        self.operation("unlink", inside)
        kept = self._kept(inside)
        self.real.unlink(path, dir_fd=dir_fd)
        if kept is not None:
            self._changes_name(inside, lambda: self.real.rename(kept, inside))
        return None

    def _mkdir(self, path, mode=0o777, *, dir_fd=None):
        inside = self._inside(path, dir_fd)
        if inside is not None and not os.path.exists(inside):
            self.operation("mkdir", inside)
        self.real.mkdir(path, mode, dir_fd=dir_fd)
        if inside is not None:
            self._changes_name(inside, lambda: self._lose_tree(inside))

    def _rmdir(self, path, *, dir_fd=None):
        inside = self._inside(path, dir_fd)
        if inside is not None:
            self.operation("rmdir", inside)
        self.real.rmdir(path, dir_fd=dir_fd)
        if inside is not None:
            self._changes_name(inside, lambda: self.real.mkdir(inside))

    def _lose_tree(self, path: str) -> None:
        self.real.rename(path, self.scratch / f"lost_{next(self._numbers)}")


class _Real:
    """The original functions."""

    def __init__(self) -> None:
        self.open = io.open
        self.os_open = os.open
        self.fsync = os.fsync
        self.sendfile = os.sendfile
        self.rename = os.rename
        self.link = os.link
        self.unlink = os.unlink
        self.mkdir = os.mkdir
        self.rmdir = os.rmdir


class _File(io.FileIO):
    """A file whose writes go through the layer."""

    def __init__(self, layer: FaultLayer, path: str, file, mode: str, closefd: bool) -> None:
        super().__init__(file, mode, closefd)
        self._layer = layer
        self._path = path

    def write(self, data):
        write, content = super().write, memoryview(data).cast("B")
        self._layer.operation("write", self._path, lambda: write(content[: len(content) // 2]))
        return write(content)

    def truncate(self, size=None):
        self._layer.operation("truncate", self._path)
        return super().truncate(size)


def _error(number: int, operation: str, path: str) -> OSError:
    """An error like the system's, in which write and sync have no file name."""
    named = () if operation in ("write", "fsync") else (path,)
    return OSError(number, os.strerror(number), *named)
