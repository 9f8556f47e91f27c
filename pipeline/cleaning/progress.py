"""The progress of cleaning, one bar over all files."""

import time
from typing import Any

from pipeline.cleaning.run import Job
from pipeline.formats.cleaned_text import printable_name


class Progress:
    """One bar over all files: bytes read of raw input, articles, articles a second, files done."""

    def __init__(self, jobs: list[Job]) -> None:
        from tqdm import tqdm

        self.num_files = len(jobs)
        self.done = 0
        self.started = time.monotonic()
        self.seen = {job.name: (0, 0, 0) for job in jobs}
        total = sum(job.size for job in jobs)
        self.bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc="Cleaning", dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def update(self, name: str, progress: tuple[int, int, int]) -> None:
        self.seen[name] = progress
        records = sum(seen[1] for seen in self.seen.values())
        speed = records / max(time.monotonic() - self.started, 1e-6)
        text = f"{records:,} articles, {speed:,.0f}/s, files {self.done}/{self.num_files}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(sum(seen[0] for seen in self.seen.values()) - self.bar.n)

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        self.done += 1
        self.update(job.name, (job.size, result["read"], result["articles"]))
        rejected = f", {result['rejected']:,} malformed" if result["rejected"] else ""
        empty = "" if result["read"] else f"; {_names(job)} holds no records"
        self.bar.write(f"{job.name}: {result['articles']:,} of {result['read']:,} articles kept{rejected}{empty}")


def _names(job: Job) -> str:
    first = printable_name(job.files[0].name)
    return first if len(job.files) == 1 else f"{first} and {len(job.files) - 1} more"
