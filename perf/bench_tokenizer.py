"""Measure how fast each engine encodes the same documents to the same ids, in one run.

    python3 perf/bench_tokenizer.py --tokenizer tokenizers/codellama_tokenizer --megabytes 200

The engines take turns within a round, so that a slow minute of the machine affects all of them. The table shows medians
and each engine's ratio to Hugging Face's `encode_batch_fast`. Every engine's ids are first compared with gigatoken's.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf.corpus import package_texts
from pipeline.tokenization.bulk_encoding import BulkEncoder
from tokenizer import WikipediaTokenizer, load_tokenizer
from utils.terminal import format_table

_DOCUMENT_CHARACTERS = 6_000  # roughly a Wikipedia article
_BATCH = 1_000
_SLOW_SHARE = 10  # other engines than gigatoken get every tenth batch: at 10 MB/s all batches would take minutes

Engine = Callable[[Sequence[str]], list]


def main() -> None:
    args = parse_args()
    tokenizer = load_tokenizer(args.tokenizer)
    batches = document_batches(args.megabytes)
    engines = all_engines(tokenizer, Path(args.tokenizer))
    compare_ids(engines, batches[0])
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, engine in engines.items():
            share = batches if name.startswith("gigatoken") else batches[::_SLOW_SHARE]
            speeds[name].append(megabytes_per_second(engine, share))
    print(table(speeds))
    memory(tokenizer, batches, "these documents")
    memory(tokenizer, random_words(args.megabytes), "random words")


def all_engines(tokenizer: WikipediaTokenizer, directory: Path) -> dict[str, Engine]:
    """Name → a function that encodes a batch on every core."""
    engines = {"gigatoken (encode_batch)": tokenizer.encode_batch}
    engines["tokenizers encode_batch_fast"] = tokenizer.encode_batch_reference
    if (directory / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
        engines["sentencepiece, threads"] = lambda texts: processor.encode(list(texts), num_threads=-1)
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer._engine)
    engines["transformers call"] = lambda texts: wrapped(list(texts), add_special_tokens=False)["input_ids"]
    return engines


def compare_ids(engines: dict[str, Engine], texts: Sequence[str]) -> None:
    rows = {name: [list(map(int, row)) for row in engine(texts)] for name, engine in engines.items()}
    first = next(iter(rows))
    for name in rows:
        assert rows[name] == rows[first], f"the ids of {name} differ from those of {first}"
    print(f"{len(engines)} engines give the same ids for {len(texts)} documents")


def document_batches(megabytes: float) -> list[list[str]]:
    documents = [
        text[start : start + _DOCUMENT_CHARACTERS]
        for text in package_texts(megabytes)
        for start in range(0, len(text), _DOCUMENT_CHARACTERS)
    ]
    print(f"{sum(map(size, documents)) / 1e6:.0f} MB in {len(documents):,} documents")
    return [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]


def megabytes_per_second(engine: Engine, batches: Sequence[Sequence[str]]) -> float:
    started = time.perf_counter()
    for batch in batches:
        engine(batch)
    seconds = time.perf_counter() - started
    return sum(size(text) for batch in batches for text in batch) / 1e6 / seconds


def table(speeds: dict[str, list[float]]) -> str:
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    base = medians["tokenizers encode_batch_fast"]
    rows = [("engine", "MB/s, median", "lowest to highest", "ratio")]
    for name, values in speeds.items():
        rows.append(
            (name, f"{medians[name]:.1f}", f"{min(values):.1f} to {max(values):.1f}", f"{medians[name] / base:.2f}")
        )
    return format_table(rows, right=(1, 2, 3))


def memory(tokenizer: WikipediaTokenizer, batches: Iterable[Sequence[str]], what: str) -> None:
    """Print how the bulk engine's caches grow if they are never renewed."""
    encoder = BulkEncoder(tokenizer.vocabulary, reference=tokenizer.encode_batch_reference, renew_after=1 << 60)
    before = resident_megabytes()
    done = 0.0
    mark = 50.0
    for batch in batches:
        encoder.encode(batch)
        done += sum(map(size, batch)) / 1e6
        if done >= mark:
            print(f"{what}, never renewed, after {done:.0f} MB: memory +{resident_megabytes() - before:.0f} MB")
            mark += 50


def random_words(megabytes: float) -> Iterator[list[str]]:
    """Batches of text in which nearly every word is new."""
    generator = np.random.default_rng(0)
    for _ in range(round(megabytes / (_BATCH * _DOCUMENT_CHARACTERS / 1e6))):
        letters = generator.integers(97, 123, size=_BATCH * _DOCUMENT_CHARACTERS, dtype=np.uint8)
        letters[generator.random(letters.size) < 0.12] = 32
        text = letters.tobytes().decode("ascii")
        yield [text[start : start + _DOCUMENT_CHARACTERS] for start in range(0, len(text), _DOCUMENT_CHARACTERS)]


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def size(text: str) -> int:
    return len(text.encode("utf-8"))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", metavar="DIR", default="tokenizers/codellama_tokenizer")
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
