"""Download a Wikipedia dump into the folder that the cleaner reads.

    print(download_dump(server, "simplewiki", "latest", config.paths.raw_dir))

One connection at a time: Wikimedia's server allows two per client.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.formats.raw_files import format_of
from pipeline.preparation.downloads import Server
from pipeline.preparation.file_download import ListedFile, save_file
from pipeline.preparation.wiki_dumps import Dump, find_dump
from utils.errors import PipelineError
from utils.files import free_disk, make_folder
from utils.locks import only_run
from utils.terminal import counted, format_bytes, say, short_path


def download_dump(server: Server, wiki: str, date: str, folder: Path) -> str:
    """Download what `folder` does not have of a dump; returns a report with the next command.

    Raises:
        PipelineError: no such dump, not enough disk space, or a file that could not be downloaded.
    """
    dump = find_dump(server, wiki, date)
    make_folder(folder)
    with only_run(folder, f"{folder} is in use by another download; wait for it or stop it", patience=5.0):
        missing = _missing_files(dump, folder)
        _refuse_small_disk(dump, missing, folder)
        _name_other_files(dump, folder)
        _save_files(server, dump, missing, folder)
    done = f"{dump.wiki} {dump.date}: {counted(len(dump.files), 'file')}, {format_bytes(dump.size)}, sums verified"
    return f"{done}\nnext: python3 main.py cleanup --input {shlex.quote(short_path(folder))}"


def _missing_files(dump: Dump, folder: Path) -> list[ListedFile]:
    """The files that `folder` does not have, or not with the right sum."""
    there = [file for file in dump.files if (folder / file.name).is_file()]
    if there:
        say(f"verifying {counted(len(there), 'file')} in {short_path(folder)} …")
    missing = [file for file in dump.files if not file.is_in(folder)]
    for file in missing:
        if file in there:
            say(f"{file.name} is damaged or incomplete; downloading it again")
    return missing


def _refuse_small_disk(dump: Dump, missing: Sequence[ListedFile], folder: Path) -> None:
    """Print what will be downloaded, and the free space.

    Raises:
        PipelineError: there is not enough space.
    """
    needed = sum(file.size - file.bytes_in(folder) for file in missing)
    free = free_disk(folder)
    if needed > free:
        raise PipelineError(
            f"{dump.wiki} {dump.date} needs {format_bytes(needed)} more in {folder}, but only {format_bytes(free)} is "
            "free; free some space, or choose a different folder with --set paths.raw_dir=DIR"
        )
    whole = f"{dump.wiki} {dump.date}: {counted(len(dump.files), 'file')}, {format_bytes(dump.size)}"
    say(f"{whole}; {format_bytes(needed)} to download to {short_path(folder)} ({format_bytes(free)} free)")


def _name_other_files(dump: Dump, folder: Path) -> None:
    """Warn about other input in the folder: another dump has the same articles."""
    ours = {file.name for file in dump.files}
    names = sorted(path.name.removesuffix(".part") for path in folder.rglob("*") if path.is_file())
    others = [name for name in names if name not in ours and format_of(Path(name))]
    if others:
        found = f"{counted(len(others), 'other file')}, such as {others[0]}"
        say(f"warning: {short_path(folder)} has {found}; the cleaner reads every finished file in it")


def _save_files(server: Server, dump: Dump, missing: Sequence[ListedFile], folder: Path) -> None:
    from tqdm import tqdm

    there = dump.size - sum(file.size - file.bytes_in(folder) for file in missing)
    with tqdm(
        desc="Downloading",
        total=dump.size,
        initial=there,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        dynamic_ncols=True,
        disable=not missing,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    ) as bar:
        for file in missing:
            bar.set_postfix_str(f"file {dump.files.index(file) + 1} of {len(dump.files)}")
            save_file(server, file, folder, advance=bar.update)
