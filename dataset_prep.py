"""Cleaned articles → token dataset: the stream `<s> article </s> …` as uint16 files that training reads in windows.

    python3 dataset_prep.py --test        # the first 10,000 articles
    python3 dataset_prep.py               # paths.cleaned_dir, on all cores
    python3 dataset_prep.py --window 1024 --overlap 0.25 --workers 4
    python3 dataset_prep.py --inspect DIR

If it is interrupted or killed, run the same command again to continue; --restart starts from scratch.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import Config, load_config_from
from pipeline.formats.cleaned_text import check_cleaned_text, cleaned_files, first_files, from_line
from pipeline.preparation.command_line import add_preparation_options, inspect_or_prepare, load_evaluation, recipe
from pipeline.preparation.input_shards import line_shards
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from utils.cli import run, stage_parser
from utils.terminal import say

if TYPE_CHECKING:
    from pipeline.preparation.job import Preparation


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add_preparation_options(parser, section="dataset", documents="articles")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    make_job = partial(preparation, config, test=args.test, restart=args.restart)
    say(inspect_or_prepare(config, tokenizer, make_job, args))
    return 0


def preparation(config: Config, *, test: bool, restart: bool = False) -> "Preparation":
    """The configured dataset, ready to be prepared."""
    from pipeline.preparation.job import Preparation
    from utils.processes import available_cores

    evaluation = load_evaluation(config.dataset.decontaminate)
    files = [path for path in cleaned_files(config.paths.cleaned_dir, test=test) if path.stat().st_size]
    dataset = config.dataset
    source = "custom" if dataset.source == "custom" else "wikipedia"
    return Preparation(
        directory=dataset.directory(test=test, source=source),
        shards=line_shards(files),
        load_tokenizer=partial(load_tokenizer, config.paths.tokenizer_dir, name=config.tokenizer.name),
        recipe=recipe(dataset, source=source, test=test, evaluation=evaluation),
        dataset=dataset,
        workers=1 if test else dataset.workers or available_cores(),
        limit=dataset.test_documents if test else None,
        evaluation=evaluation,
        restart=restart,
        check_input=partial(check_cleaned_text, first_files(files, dataset.test_documents if test else None)),
    )


def iter_articles(cleaned_dir: Path, *, limit: int | None = None) -> Iterator[str]:
    """At most `limit` articles from all cleaned files, in dataset order."""
    lines = (line for shard in line_shards(cleaned_files(cleaned_dir, test=True)) for line in shard.lines())
    for line in islice(lines, limit):
        yield from_line(line.decode())


if __name__ == "__main__":
    run(main)
