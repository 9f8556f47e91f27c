"""Compare dataset_prep.py, the whole process, with its encoder alone and with the usual `datasets.map` route.

    python3 perf/bench_dataset_prep.py --tokenizer DIR [--megabytes 250] [--runs 3] [--work DIR]

The text is source and documentation files of Python and the installed packages: each file once, as one article.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from perf.corpus import package_texts  # noqa: E402
from pipeline.formats.cleaned_text import from_line, to_line  # noqa: E402
from pipeline.preparation.exact_duplicates import hash_documents, keep_masks  # noqa: E402
from utils.terminal import format_table  # noqa: E402

# The usual route (nanoGPT's prepare.py and many after it): text file → datasets → map in two processes → one array.
USUAL_ROUTE = """
import sys
import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer

corpus, tokenizer_file, target, cache = sys.argv[1:]

def articles():
    with open(corpus, encoding="utf-8", newline="\\n") as lines:
        for line in lines:
            yield {"text": line[:-1].replace("\\u2029", "\\n\\n").replace("\\u2028", "\\n")}

def encode(batch):
    encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
    ids = [[1, *encoding.ids, 2] for encoding in encoded]
    return {"ids": ids, "len": [len(row) for row in ids]}

tokenizer = Tokenizer.from_file(tokenizer_file)
tokenizer.encode_special_tokens = True
data = Dataset.from_generator(articles, cache_dir=cache)
data = data.map(encode, batched=True, remove_columns=["text"], num_proc=2)
stream = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint16, shape=(sum(data["len"]),))
position = 0
for start in range(0, len(data), 1000):
    block = np.concatenate(data.with_format("numpy")[start : start + 1000]["ids"])
    stream[position : position + len(block)] = block
    position += len(block)
stream.flush()
"""


class Times(NamedTuple):
    wall: float
    processor: float


def main() -> int:
    args = parse_args()
    work = Path(args.work or tempfile.mkdtemp(prefix="perf_dataset_prep_"))
    work.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(work / "cleaned" / "cleaned_source.txt", megabytes=args.megabytes)
    size = corpus.stat().st_size / 1e6
    config = write_config(work, args.tokenizer)
    routes = {
        "encoder alone, two cores": lambda: time_encoder(corpus, args.tokenizer),
        "dataset_prep.py, whole process": lambda: time_ours(work, config, workers=2),
        "dataset_prep.py --workers 1": lambda: time_ours(work, config, workers=1),
    }
    if not args.no_usual:
        routes["datasets.map(num_proc=2)"] = lambda: time_usual(work, corpus, args.tokenizer)
    times: dict[str, list[Times]] = {name: [] for name in routes}
    for _ in range(args.runs):
        for name, measure in routes.items():
            times[name].append(measure())
            wall, processor = times[name][-1]
            print(f"{name}: {wall:.2f} s, {processor:.2f} s of processors", flush=True)
    if not args.no_usual:
        check_equal(work)
    print(table(times, size))
    print(f"start-up (--help): {time_startup():.2f} s; peak memory of a process: {peak_memory(work, config):.0f} MB")
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "tokenizers" / "codellama_tokenizer")
    parser.add_argument("--megabytes", type=int, default=250)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", help="folder for the corpus and datasets, which are kept (default: a temporary one)")
    parser.add_argument("--no-usual", action="store_true", help="skip the datasets.map route")
    return parser.parse_args()


def write_corpus(path: Path, *, megabytes: int) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = package_texts(megabytes)
        [keep] = keep_masks([hash_documents(texts)])  # the usual route drops no duplicates
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(to_line(text) + "\n" for text, kept in zip(texts, keep, strict=True) if kept)
    return path


def write_config(work: Path, tokenizer: Path) -> Path:
    from tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    loaded.save(work / "tokenizer")
    content = {
        "paths": {"cleaned_dir": "cleaned", "tokenizer_dir": "tokenizer"},
        "dataset": {"wikipedia_full_dir": "ours"},
        "model": {"vocab_size": loaded.vocab_size},
    }
    path = work / "config.json"
    path.write_text(json.dumps(content))
    return path


def timed(command: list[str]) -> Times:
    """Wall and processor seconds of a command and all its processes."""
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Times(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def time_ours(work: Path, config: Path, *, workers: int) -> Times:
    shutil.rmtree(work / "ours", ignore_errors=True)
    return timed([sys.executable, "dataset_prep.py", "--config", str(config), "--workers", str(workers)])


def time_usual(work: Path, corpus: Path, tokenizer: Path) -> Times:
    shutil.rmtree(work / "cache", ignore_errors=True)
    file = work / "tokenizer" / "tokenizer.json"
    arguments = [str(corpus), str(file), str(work / "usual.npy"), str(work / "cache")]
    return timed([sys.executable, "-c", USUAL_ROUTE, *arguments])


def time_encoder(corpus: Path, tokenizer: Path) -> Times:
    """Seconds of encode_batch alone in a new process: texts in memory, cold caches, all cores."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from perf.bench_dataset_prep import batches
from tokenizer import load_tokenizer
texts = batches({str(corpus)!r})
tokenizer = load_tokenizer({str(tokenizer)!r})
tokenizer.encode_batch(["warm"])
started, processor = time.perf_counter(), time.process_time()
for text in texts:
    tokenizer.encode_batch(text)
print(time.perf_counter() - started, time.process_time() - processor)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return Times(*map(float, output.split()))


def batches(corpus: str) -> list[list[str]]:
    with open(corpus, encoding="utf-8", newline="\n") as lines:
        texts = [from_line(line) for line in lines]
    return [texts[start : start + 1000] for start in range(0, len(texts), 1000)]


def check_equal(work: Path) -> None:
    import numpy as np

    from pipeline.formats.token_dataset import TokenDataset

    usual = np.load(work / "usual.npy", mmap_mode="r")
    ours = np.concatenate(TokenDataset.open(work / "ours").files)
    assert np.array_equal(usual, ours), "the two routes give different tokens"
    print(f"both routes give the same {len(ours):,} tokens")


def time_startup() -> float:
    return statistics.median(timed([sys.executable, "dataset_prep.py", "--help"]).wall for _ in range(5))


def peak_memory(work: Path, config: Path) -> float:
    """MB of the largest process of a run with two workers."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=2, check=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    shutil.rmtree(work / "ours", ignore_errors=True)
    command = [sys.executable, "-c", code, sys.executable, "dataset_prep.py", "--config", str(config), "--workers", "2"]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def table(times: dict[str, list[Times]], size: float) -> str:
    """Medians; both ratios are to the encoder alone."""
    medians = {
        name: Times(*(statistics.median(column) for column in zip(*runs, strict=True))) for name, runs in times.items()
    }
    first = medians["encoder alone, two cores"]
    rows = [("route", "seconds", "MB/s", "encoder's speed", "processor seconds", "encoder's share")]
    for name, (wall, processor) in medians.items():
        speeds = (f"{wall:.2f}", f"{size / wall:.1f}", f"{first.wall / wall:.0%}")
        rows.append((name, *speeds, f"{processor:.2f}", f"{first.processor / processor:.0%}"))
    return format_table(rows, right=range(1, 6))


if __name__ == "__main__":
    sys.exit(main())
