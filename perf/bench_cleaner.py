"""Measure the cleaner: MB of raw input per second and core, next to orjson alone parsing the same lines.

python3 perf/bench_cleaner.py                          # 200 MB of text in four made-up raw files
python3 perf/bench_cleaner.py --input data/raw/x.jsonl # your own file instead
python3 perf/bench_cleaner.py --profile                # where the time goes
"""

import argparse
import gc
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf.wikipedia_corpus import structured_articles
from pipeline.cleaning.cleaned_file import CleaningOptions, clean_file
from pipeline.cleaning.plan import CleaningJob, plan_jobs
from pipeline.configuration import load_config
from utils.terminal import format_table

CLEANER = Path(__file__).resolve().parent.parent / "cleaner.py"
NUM_FILES = 4
REPEATS = 3


def write_corpus(directory: Path, megabytes: float) -> list[Path]:
    """Raw files of about equal size."""
    files = [directory / f"enwiki_namespace_0_{number}.jsonl" for number in range(NUM_FILES)]
    articles = iter(structured_articles(megabytes))
    streams = [file.open("wb") for file in files]
    while batch := list(islice(articles, NUM_FILES)):
        for stream, article in zip(streams, batch, strict=False):
            stream.write(orjson.dumps(article) + b"\n")
    for stream in streams:
        stream.close()
    return files


def parse_only(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                orjson.loads(line)


def clean_here(jobs: list[CleaningJob], directory: Path) -> None:
    """Clean in this process as a worker does: no start-up, no progress bar."""
    gc.disable()
    config = load_config().cleaning
    for job in jobs:
        clean_file(job, CleaningOptions(directory, config), lambda progress: None)


def run_cleaner(raw: Path, directory: Path, *options: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    command = [sys.executable, str(CLEANER), "--input", str(raw), "--output", str(directory), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    action()
    return clock() - started


def measure(raw: Path, files: list[Path], scratch: Path) -> None:
    """Print medians; the measurements take turns, so that a busy machine slows all of them."""
    jobs = plan_jobs(raw)
    size = sum(file.stat().st_size for file in files) / 1e6
    cores = [count for count in (1, 2, 4, 8) if count <= (os.cpu_count() or 1) and count <= len(jobs)]
    actions = {
        "orjson alone, one core": lambda: parse_only(files),
        "cleaner, one core": lambda: clean_here(jobs, scratch),
    }
    for count in cores:
        options = ("--workers", str(count))
        actions[f"python3 cleaner.py --workers {count}"] = lambda options=options: run_cleaner(raw, scratch, *options)
    if files[0].suffix != ".jsonl":
        del actions["orjson alone, one core"]
    times = {name: [] for name in actions}
    for _ in range(REPEATS):
        for name, action in actions.items():
            # Processor time for work in this process, wall time for other processes.
            clock = time.process_time if name.endswith("one core") else time.perf_counter
            times[name].append(seconds(action, clock))
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians.get("orjson alone, one core", medians["cleaner, one core"])
    rows = [("what", "seconds", "MB/s", "times the first")]
    rows += [
        (name, f"{value:.2f}", f"{size / value:.0f}", f"{value / reference:.2f}") for name, value in medians.items()
    ]
    print(f"{size:.0f} MB in {len(files)} files, medians of {REPEATS}\n")
    print(format_table(rows, right=[1, 2, 3]))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\nlargest process of the runs: {peak:.0f} MB of memory")


def start_up(scratch: Path) -> None:
    raw = scratch / "tiny.jsonl"
    raw.write_text('{"title": "T", "text": "%s"}\n' % ("word " * 100))
    times = [seconds(lambda: run_cleaner(raw, scratch / "tiny")) for _ in range(5)]
    print(f"one article, start-up included: {statistics.median(times):.2f} s")


def profile(jobs: list[CleaningJob], scratch: Path) -> None:
    import cProfile
    import pstats

    with cProfile.Profile() as profiler:
        clean_here(jobs[:1], scratch)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, metavar="PATH", help="a raw file or folder (default: a made-up corpus)")
    parser.add_argument("--megabytes", type=float, default=200, help="text in the made-up corpus (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="profile one file instead")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        raw = args.input
        if raw is None:
            raw = scratch / "raw"
            raw.mkdir()
            write_corpus(raw, args.megabytes)
        jobs = plan_jobs(raw)
        if args.profile:
            profile(jobs, scratch / "out")
            return
        measure(raw, [file for job in jobs for file in job.files], scratch / "out")
        start_up(scratch)


if __name__ == "__main__":
    main()
