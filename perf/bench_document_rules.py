"""Measure what the preparation does to a document besides encoding it, in MB/s of processor time on one core.

    python3 perf/bench_document_rules.py --megabytes 20

A tenth of the documents make up the decontamination index; the others are measured.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf.corpus import package_texts
from pipeline.preparation.decontamination import EvaluationIndex
from pipeline.preparation.exact_duplicates import hash_documents
from pipeline.preparation.quality_rules import RULES
from utils.terminal import format_table

_ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20)
    texts = package_texts(parser.parse_args().megabytes)
    index = EvaluationIndex({"held out": texts[::10]})
    others = [text for number, text in enumerate(texts) if number % 10]
    jobs: dict[str, Callable[[str], object]] = {
        "hash for duplicates": lambda text: hash_documents([text]),
        "decontamination": index.find,
        **RULES,
    }
    rows = [("work", "MB/s, median", "lowest to highest")]
    for name, work in jobs.items():
        speeds = sorted(megabytes_per_second(work, others) for _ in range(_ROUNDS))
        rows.append((name, f"{statistics.median(speeds):.0f}", f"{speeds[0]:.0f} to {speeds[-1]:.0f}"))
    print(format_table(rows, right=(1, 2)))


def megabytes_per_second(work: Callable[[str], object], texts: list[str]) -> float:
    started = time.process_time()
    for text in texts:
        work(text)
    seconds = time.process_time() - started
    return sum(len(text.encode("utf-8")) for text in texts) / 1e6 / seconds


if __name__ == "__main__":
    main()
