"""Cleaned articles → token dataset: the stream `<s> article </s> …` as uint16 files that training reads in windows.

    python3 dataset_prep.py --test              # the first 10,000 articles
    python3 dataset_prep.py                     # everything in paths.cleaned_dir, on all cores
    python3 dataset_prep.py --window 1024 --overlap 0.25 --batch 5000 --max-files 20 --workers 4

Interrupted, even killed, it goes on when the same command is run again; --restart begins anew.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from preparation.report import summary
from preparation.run import Preparation, available_cores, prepare
from preparation.shards import line_shards
from preparation.writer import check_tokenizer
from tokenizer import load_tokenizer
from utils.cleaned_files import cleaned_files
from utils.cli import load_config_from, run, stage_parser
from utils.config_sections import Config, DatasetConfig
from utils.text import from_line


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--test", action="store_true", help="the first dataset.test_documents articles, one worker")
    parser.add_argument("--window", type=int, metavar="N", help="tokens in a training window")
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="share of a window that the next one repeats")
    parser.add_argument("--batch", "--batch-size", type=int, metavar="N", help="articles tokenized in one go")
    parser.add_argument("--max-files", type=int, metavar="N", help="token files at most")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; left out: one a core")
    parser.add_argument("--restart", action="store_true", help="remove what is there of this dataset and begin anew")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(
        args,
        dataset__window=args.window,
        dataset__overlap=args.overlap,
        dataset__batch_size=args.batch,
        dataset__max_files=args.max_files,
        dataset__workers=args.workers,
    )
    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    check_tokenizer(tokenizer, config.model.vocab_size)
    job = preparation(config, test=args.test, restart=args.restart)
    print(summary(prepare(job, tokenizer), job.directory))
    return 0


def preparation(config: Config, *, test: bool, restart: bool = False) -> Preparation:
    """The dataset to make, as the configuration says."""
    files = [path for path in cleaned_files(config.paths.cleaned_dir, test=test) if path.stat().st_size]
    dataset = config.dataset
    source = "custom" if dataset.source == "custom" else "wikipedia"
    return Preparation(
        directory=dataset.directory(test=test, source=source),
        shards=line_shards(files),
        load_tokenizer=partial(load_tokenizer, config.paths.tokenizer_dir, name=config.tokenizer.name),
        recipe=recipe(dataset, source=source, test=test),
        inputs=[{"name": path.name, "bytes": path.stat().st_size} for path in files],
        window=dataset.window,
        stride=dataset.stride,
        file_tokens=dataset.file_tokens,
        max_files=dataset.max_files,
        batch_size=dataset.batch_size,
        workers=1 if test else dataset.workers or available_cores(),
        limit=dataset.test_documents if test else None,
        restart=restart,
    )


def recipe(dataset: DatasetConfig, *, source: str, test: bool) -> dict[str, Any]:
    """The settings that decide the dataset's bytes; a run that goes on must have the same."""
    return {
        "source": source,
        "test": test,
        **({"test_documents": dataset.test_documents} if test else {}),
        "window": dataset.window,
        "overlap": dataset.overlap,
        "max_files": dataset.max_files,
        "file_tokens": dataset.file_tokens,
    }


def iter_articles(cleaned_dir: Path, *, limit: int | None = None) -> Iterator[str]:
    """The articles of all cleaned files, in the order that a dataset holds them, at most `limit`."""
    lines = (line for shard in line_shards(cleaned_files(cleaned_dir, test=True)) for line in shard.lines())
    for line in islice(lines, limit):
        yield from_line(line.decode())


if __name__ == "__main__":
    run(main)
