"""The progress of cleaning: one bar over all files."""

import time
from collections.abc import Sequence

from pipeline.cleaning.cleaned_file import FileProgress
from pipeline.cleaning.plan import CleaningJob
from pipeline.formats.cleaned_text import CleanedFile
from utils.terminal import fitted, terminal_width
from utils.text_layout import join_fitting

_LAYOUT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{desc}, {remaining} left]"
_TAKEN = len("100%|         | 99.9M/99.9M [, 00:00:00 left]")


class CleaningBar:
    """Bytes of raw input read, articles, articles per second, finished files."""

    def __init__(self, jobs: Sequence[CleaningJob]) -> None:
        from tqdm import tqdm

        self._num_files = len(jobs)
        self._done = 0
        self._started = time.monotonic()
        self._seen = {job.name: FileProgress() for job in jobs}
        total = sum(job.size for job in jobs)
        self._bar = tqdm(
            total=total, unit="B", unit_scale=True, unit_divisor=1024, bar_format=_LAYOUT, dynamic_ncols=True
        )

    def __enter__(self) -> "CleaningBar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, name: str, progress: FileProgress) -> None:
        self._seen[name] = progress
        records = sum(seen.records for seen in self._seen.values())
        speed = records / max(time.monotonic() - self._started, 1e-6)
        parts = [f"{records:,} articles", f"{speed:,.0f}/s", f"files {self._done}/{self._num_files}"]
        self._bar.set_description_str(join_fitting(parts, terminal_width() - _TAKEN), refresh=False)
        self._bar.update(sum(seen.size for seen in self._seen.values()) - self._bar.n)

    def finish(self, job: CleaningJob, result: CleanedFile) -> None:
        self._done += 1
        self.update(job.name, FileProgress(job.size, result["read"], result["articles"]))
        rejected = f", {result['rejected']:,} malformed" if result["rejected"] else ""
        empty = "" if result["read"] else f"; {job.input_names} has no records"
        kept = f"{result['articles']:,} of {result['read']:,} articles kept"
        self._bar.write(fitted(f"{job.name}: {kept}{rejected}{empty}"))
