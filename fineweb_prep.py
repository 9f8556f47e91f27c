"""FineWeb → token dataset: streamed from the Hugging Face hub or read from downloaded shards, filtered, tokenized.

    python3 fineweb_prep.py --test           # the first 10,000 documents
    python3 fineweb_prep.py --workers 4      # sample-10BT, in four streams
    python3 fineweb_prep.py --source DIR     # downloaded Parquet or JSONL files
    python3 fineweb_prep.py --window 1024 --batch-size 5000 --max-files 20
    python3 fineweb_prep.py --set fineweb.name=HuggingFaceFW/fineweb-edu

Broken connections resume where they stopped. If the run is interrupted or killed, run the same command again to
continue; --restart starts from scratch.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.configuration import Config, load_config_from
from pipeline.formats.raw_files import find_raw_files
from pipeline.preparation.command_line import add_preparation_options, inspect_or_prepare, load_evaluation, recipe
from pipeline.preparation.config import FineWebConfig
from pipeline.preparation.downloads import Retries
from pipeline.preparation.hub_files import hub_server, hub_shards
from pipeline.preparation.input_shards import Shard, record_shards
from pipeline.preparation.quality_rules import check_rule_names, rejection
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from utils.cli import run, stage_parser
from utils.errors import PipelineError
from utils.files import is_within
from utils.terminal import say

if TYPE_CHECKING:
    from pipeline.preparation.job import Preparation


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    add_preparation_options(parser, section="fineweb", documents="documents")
    parser.add_argument("--source", type=Path, metavar="DIR", help="read downloaded Parquet or JSONL files")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    make_job = partial(preparation, config, test=args.test, source=args.source, restart=args.restart)
    say(inspect_or_prepare(config, tokenizer, make_job, args))
    return 0


def preparation(config: Config, *, test: bool, source: Path | None = None, restart: bool = False) -> "Preparation":
    """The configured dataset, ready to be prepared from the hub or from the files in `source`."""
    from pipeline.preparation.job import Preparation
    from utils.processes import available_cores

    fineweb = config.fineweb
    check_rule_names(fineweb.quality_rules)
    evaluation = load_evaluation(config.dataset.decontaminate)
    directory = config.dataset.directory(test=test, source="fineweb")
    if source is not None and source.is_dir() and is_within(directory, source):
        raise PipelineError(f"the dataset folder {directory} is inside --source {source}; choose a folder outside it")
    made_of = {"name": fineweb.name, "subset": fineweb.subset} if source is None else {"name": source.name}
    filters = {
        "min_language_score": fineweb.min_language_score,
        "min_tokens": fineweb.min_tokens,
        "quality_rules": list(fineweb.quality_rules),
    }
    return Preparation(
        directory=directory,
        shards=document_shards(fineweb, source=source),
        load_tokenizer=partial(load_tokenizer, config.paths.tokenizer_dir, name=config.tokenizer.name),
        recipe=recipe(config.dataset, source="fineweb", test=test, evaluation=evaluation, **made_of, **filters),
        dataset=config.dataset,
        workers=1 if test else fineweb.workers or (available_cores() if source else 1),
        limit=config.dataset.test_documents if test else None,
        min_tokens=fineweb.min_tokens,
        evaluation=evaluation,
        prefetch=source is None,
        restart=restart,
    )


def document_shards(fineweb: FineWebConfig, *, source: Path | None = None) -> Sequence[Shard]:
    """The pieces of input, in order; `rejection_reason` is applied when they are read."""
    reject = partial(rejection_reason, fineweb=fineweb)
    if source is not None:
        return record_shards(find_raw_files(source), reject)
    server = hub_server(Retries(fineweb.retries, fineweb.retry_seconds))
    return hub_shards(server, fineweb.name, fineweb.subset, reject)


def stream_documents(fineweb: FineWebConfig, *, source: Path | None = None, limit: int | None = None) -> Iterator[str]:
    """The texts among the first `limit` documents that pass the filters, in dataset order.

    Their length in tokens is not checked, because that filter runs after the tokenizer.
    """
    rows = (row for shard in document_shards(fineweb, source=source) for row in shard.rows(0, None))
    return (row.text for row in islice(rows, limit) if not row.reason)


def rejection_reason(document: Mapping[str, Any], fineweb: FineWebConfig) -> str | None:
    """Why a document is dropped before tokenization, or None. Documents without a `language_score` pass that check."""
    score = document.get("language_score")
    if score is not None and score < fineweb.min_language_score:
        return "language_score"
    return rejection(document["text"], fineweb.quality_rules)


if __name__ == "__main__":
    run(main)
