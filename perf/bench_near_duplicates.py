"""Measure the search for near duplicates on one core, next to the tokenizer and to datasketch, in one process each.

    python3 perf/bench_near_duplicates.py --megabytes 40 --rounds 3 --tokenizer FOLDER [--datasketch PYTHON]

Times are processor time, in MB of text per second. `--datasketch` is a Python that has datasketch installed; it
computes sketches of the same token windows for a part of the documents, and its estimates are compared with ours.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf.corpus import package_texts
from pipeline.jobs.local_processes import ThisProcess
from pipeline.preparation.near_duplicate_jobs import Search, find_near_duplicates
from pipeline.preparation.near_duplicates import HASHES, SHINGLE_TOKENS, estimated_similarity, jaccard, sketch
from pipeline.preparation.shard_output import INDEX_DTYPE, Part
from pipeline.preparation.worker import part_name
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from utils.terminal import format_table

_PART_DOCUMENTS = 2000
_OTHER_SHARE = 40  # datasketch gets every fortieth document

DATASKETCH = f"""
import sys, time
import numpy as np
from datasketch import MinHash
with np.load(sys.argv[1]) as file:
    documents = [file[name] for name in file.files]
started = time.process_time()
for ids in documents:
    windows = np.lib.stride_tricks.sliding_window_view(ids, {SHINGLE_TOKENS})
    minhash = MinHash(num_perm={HASHES})
    minhash.update_batch([row.tobytes() for row in windows])
print(time.process_time() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--datasketch", type=Path)
    args = parser.parse_args()
    texts = package_texts(args.megabytes)
    sizes = [len(text.encode()) for text in texts]
    tokenizer = load_tokenizer(args.tokenizer)
    tokenizer.encode_batch(["warm"])
    documents: list[np.ndarray] = []
    speeds: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[], object], size: float = sum(sizes)) -> None:
        started = time.process_time()
        work()
        speeds.setdefault(name, []).append(size / 1e6 / (time.process_time() - started))

    for _ in range(args.rounds):
        documents.clear()
        measure("tokenizer", lambda: documents.extend(tokenizer.encode_batch(texts)))
        measure("sketches only", lambda: sketch_all(documents))
        with tempfile.TemporaryDirectory() as folder:
            search = Search(Path(folder), write_parts(Path(folder), documents), args.threshold)
            keep = [np.ones(Part(search.folder, part_name(n)).state.documents, bool) for n in range(search.parts)]
            measure("whole search", partial(find_near_duplicates, search, keep, ThisProcess()))
        if args.datasketch:
            others = [ids for ids in documents[::_OTHER_SHARE] if len(ids) >= SHINGLE_TOKENS]
            seconds = datasketch_seconds(args.datasketch, others)
            speeds.setdefault("datasketch, sketches", []).append(sum(sizes[::_OTHER_SHARE]) / 1e6 / seconds)
    print(f"{len(texts):,} documents, {sum(sizes) / 1e6:.1f} MB, {sum(map(len, documents)):,} tokens")
    print(f"error of the estimate: {estimate_error():.3f} (root mean square, similarity 0.8)")
    print(table(speeds))


def sketch_all(documents: list[np.ndarray]) -> None:
    for start in range(0, len(documents), 50):
        sketch([ids for ids in documents[start : start + 50] if len(ids) >= SHINGLE_TOKENS])


def write_parts(folder: Path, documents: list[np.ndarray]) -> int:
    """Write the documents as parts of an unfinished dataset; returns the number of parts."""
    starts = range(0, len(documents), _PART_DOCUMENTS)
    for number, start in enumerate(starts):
        batch = documents[start : start + _PART_DOCUMENTS]
        index = np.zeros(len(batch), dtype=INDEX_DTYPE)
        index["tokens"] = [len(ids) + 2 for ids in batch]
        edge = np.zeros(1, dtype=np.uint16)
        streams = [piece for ids in batch for piece in (edge, ids, edge)]
        Part(folder, part_name(number)).append(streams, index, rows=len(batch), size=0, rejected={})
    return len(starts)


def datasketch_seconds(python: Path, documents: list[np.ndarray]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.npz"
        np.savez(path, *documents)
        output = subprocess.run([python, "-c", DATASKETCH, path], check=True, capture_output=True, text=True).stdout
    return float(output)


def estimate_error() -> float:
    """The error for pairs of 1,000 random tokens with a similarity of about 0.8."""
    random = np.random.default_rng(0)
    left = [random.integers(3, 32_000, 1000).astype(np.uint16) for _ in range(400)]
    right = [ids.copy() for ids in left]
    for ids in right:
        ids[random.choice(1000, 22, replace=False)] = 0
    errors = estimated_similarity(sketch(left), sketch(right)) - jaccard(left, right)
    return float(np.sqrt((errors**2).mean()))


def table(speeds: dict[str, list[float]]) -> str:
    reference = statistics.median(speeds["tokenizer"])
    rows = [("work", "MB/s, median", "lowest to highest", "tokenizer's speed")]
    for name, found in speeds.items():
        median = statistics.median(found)
        rows.append((name, f"{median:.1f}", f"{min(found):.1f} to {max(found):.1f}", f"{median / reference:.2f}"))
    return format_table(rows, right=(1, 2, 3))


if __name__ == "__main__":
    main()
