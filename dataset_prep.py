"""Cleaned articles → token dataset: the stream `<s> article </s> …` as uint16 files that training reads in windows.

    python3 dataset_prep.py --test        # the first 10,000 articles
    python3 dataset_prep.py               # paths.cleaned_dir, on all cores
    python3 dataset_prep.py --window 1024 --overlap 0.25 --workers 4
    python3 dataset_prep.py --inspect DIR
    python3 dataset_prep.py --download simplewiki   # fetch a dump of Wikipedia

--download fetches the XML dump of any wiki of dumps.wikimedia.org for cleaner.py (enwiki: about 25 GB), and verifies
it. It does not fetch Wikimedia's structured contents from the Hugging Face hub; download and unpack those yourself.

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
    parser.add_argument("--download", metavar="WIKI", help="fetch a dump (enwiki, …) into paths.raw_dir")
    parser.add_argument("--date", metavar="DATE", help="with --download: YYYYMMDD, or latest (default)")
    parser.keep_for_help_all("--date")
    args = parser.parse_args(argv)
    if args.date and not args.download:
        parser.error("--date needs --download WIKI")
    if args.download and (args.test or args.inspect or args.restart):
        parser.error("--download cannot be combined with --test, --inspect or --restart")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    if args.download:
        say(download(config, args.download, args.date or "latest"))
        return 0
    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    make_job = partial(preparation, config, test=args.test, restart=args.restart)
    say(inspect_or_prepare(config, tokenizer, make_job, args))
    return 0


def download(config: Config, wiki: str, date: str) -> str:
    """Download a dump into paths.raw_dir; returns a report."""
    from pipeline.preparation.downloads import Retries
    from pipeline.preparation.dump_download import download_dump
    from pipeline.preparation.wiki_dumps import dump_server

    retries = Retries(config.fineweb.retries, config.fineweb.retry_seconds)
    return download_dump(dump_server(config.dataset.dumps_url, retries), wiki, date, config.paths.raw_dir)


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
