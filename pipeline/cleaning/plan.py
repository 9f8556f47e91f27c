"""Plan a cleaning run: which raw files go into which cleaned file, and how to detect changed input."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.formats.cleaned_text import printable_name
from pipeline.formats.raw_files import bare_name, find_raw_files, format_of
from utils.errors import PipelineError
from utils.files import is_within

# Small text files share an output; otherwise a folder of 10,000 notes would become 10,000 files.
TEXT_BYTES_TOGETHER = 64 << 20
_SAMPLE_BYTES = 64 << 10
REJECTS_NAME = "rejects"


@dataclass(frozen=True)
class CleaningJob:
    """An output file and its raw files, cleaned by one process."""

    name: str
    files: tuple[Path, ...]
    size: int
    fingerprint: str

    @property
    def source(self) -> str:
        """``cleaned_x.txt`` → ``x``."""
        return self.name.removeprefix("cleaned_").removesuffix(".txt")

    @property
    def input_names(self) -> str:
        """``a.jsonl``, or ``a.txt and 2 more``."""
        first = printable_name(self.files[0].name)
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


def plan_jobs(place: Path) -> list[CleaningJob]:
    """A job for each raw file in `place`; text files are combined up to TEXT_BYTES_TOGETHER.

    Raises:
        PipelineError: there is nothing to read, or two files would have the same output.
    """
    root = place if place.is_dir() else place.parent
    jobs: dict[str, CleaningJob] = {}
    for name, files in _outputs(find_raw_files(place), root):
        if name in jobs:
            both = printable_name(f"{jobs[name].files[0].name} and {files[0].name}")
            raise PipelineError(f"{both} in {root} would both be written to {name}; rename one of them")
        jobs[name] = CleaningJob(name, tuple(files), sum(file.stat().st_size for file in files), _fingerprint(files))
    return list(jobs.values())


def _outputs(files: list[Path], root: Path) -> list[tuple[str, list[Path]]]:
    outputs = []
    texts: list[list[Path]] = []
    room = 0
    for file in files:
        if format_of(file) != "text":
            source = Path(file.relative_to(root)).with_name(Path(bare_name(file)).stem)
            outputs.append((printable_name(f"cleaned_{'__'.join(source.parts)}.txt"), [file]))
            continue
        size = file.stat().st_size
        if size > room:
            texts.append([])
            room = TEXT_BYTES_TOGETHER
        texts[-1].append(file)
        room -= size
    return outputs + [(f"cleaned_text_{number:03d}.txt", group) for number, group in enumerate(texts)]


def _fingerprint(files: list[Path]) -> str:
    """A hash of names, sizes, modification times, and both ends of each file, because 50 GB should not be read
    twice."""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(os.fsencode(file.name) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(_SAMPLE_BYTES))
            content.seek(max(0, stat.st_size - _SAMPLE_BYTES))
            digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def refuse_own_output(place: Path, directory: Path, jobs: Iterable[CleaningJob]) -> None:
    """Raise a PipelineError if this run of `jobs`, or the next one, would read its own output in `directory`."""
    if place.is_dir() and is_within(directory, place):
        raise PipelineError(
            f"the output folder {directory} is the same as, or inside, the input {place}, so the cleaner would "
            "read its own output; choose a different folder with --output"
        )
    output = directory.resolve()
    for file in (file.resolve() for job in jobs for file in job.files):
        is_cleaned = file.parent == output and file.name.startswith("cleaned_") and file.suffix == ".txt"
        if is_cleaned or output / REJECTS_NAME in file.parents:
            raise PipelineError(
                f"{file} was written by the cleaner itself; choose a different file or folder with --input"
            )
