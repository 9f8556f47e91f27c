"""The command-line options of both preparation stages, and the settings that determine a dataset's content."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.configuration import Config
from pipeline.preparation.config import DatasetConfig
from pipeline.tokenization.interface import Tokenizer
from utils.errors import UsageError
from utils.stage_parser import StageParser

if TYPE_CHECKING:
    from pipeline.preparation.decontamination import EvaluationIndex
    from pipeline.preparation.job import Preparation


def add_preparation_options(parser: StageParser, *, section: str, documents: str) -> None:
    """Add the shared options. `section` has the key `workers`; `documents` names the input in help texts."""
    parser.add_argument("--test", action="store_true", help=f"only the first {documents} (dataset.test_documents)")
    parser.add_argument("--window", dest="dataset.window", type=int, metavar="N", help="tokens in a training window")
    parser.add_argument(
        "--overlap",
        dest="dataset.overlap",
        type=float,
        metavar="SHARE",
        help="share of a window that is repeated in the next one",
    )
    parser.add_argument(
        "--batch",
        "--batch-size",
        dest="dataset.batch_size",
        type=int,
        metavar="N",
        help=f"{documents} tokenized in one batch",
    )
    parser.add_argument("--max-files", dest="dataset.max_files", type=int, metavar="N", help="maximum token files")
    parser.add_argument("--workers", dest=f"{section}.workers", type=int, metavar="N", help="worker processes")
    parser.add_argument(
        "--decontaminate",
        dest="dataset.decontaminate",
        metavar="DIR",
        help=f"drop {documents} that share a 13-gram with the benchmark files in DIR",
    )
    parser.add_argument(
        "--near-duplicates",
        dest="dataset.near_duplicates",
        type=float,
        metavar="S",
        help=f"drop {documents} this similar to an earlier one (0.8)",
    )
    parser.add_argument("--restart", action="store_true", help="delete this dataset and start from scratch")
    parser.add_argument(
        "--inspect",
        type=Path,
        metavar="DIR",
        help="describe a finished dataset, and verify its files",
    )
    parser.add_argument("--documents", type=int, metavar="N", help="with --inspect: show N random documents at length")
    parser.keep_for_help_all("--batch", "--max-files", "--decontaminate", "--documents")


def inspect_or_prepare(
    config: Config, tokenizer: Tokenizer, make_job: Callable[[], "Preparation"], args: argparse.Namespace
) -> str:
    """Describe the dataset in ``--inspect``, or else prepare the one that `make_job` describes; returns a report."""
    if args.documents is not None and (not args.inspect or args.documents < 0):
        raise UsageError("--documents N needs --inspect DIR, and N must be at least 0")
    if args.inspect:
        from pipeline.preparation.inspection import inspect_dataset

        dataset = config.dataset
        return inspect_dataset(
            args.inspect, tokenizer, window=dataset.window, stride=dataset.stride, num_documents=args.documents
        )
    from pipeline.preparation.dataset_writer import check_tokenizer
    from pipeline.preparation.report import summary
    from pipeline.preparation.run import prepare

    check_tokenizer(tokenizer, config.model.vocab_size)
    job = make_job()
    return summary(prepare(job, tokenizer), job.directory)


def recipe(
    dataset: DatasetConfig, *, source: str, test: bool, evaluation: "EvaluationIndex | None", **more: Any
) -> dict[str, Any]:
    """The settings that determine the dataset's content. They are stored in the metadata and must match on resume."""
    limit = {"test_documents": dataset.test_documents} if test else {}
    similarity = {} if dataset.near_duplicates is None else {"near_duplicates": dataset.near_duplicates}
    return {
        "source": source,
        "test": test,
        **limit,
        "window": dataset.window,
        "overlap": dataset.overlap,
        "max_files": dataset.max_files,
        "file_tokens": dataset.file_tokens,
        "deduplicate": dataset.deduplicate,
        **similarity,
        "decontamination": evaluation.stamp() if evaluation else None,
        **more,
    }


def load_evaluation(directory: Path | None) -> "EvaluationIndex | None":
    """The n-grams of the evaluation files in `directory`."""
    if directory is None:
        return None
    from pipeline.preparation.decontamination import EvaluationIndex

    return EvaluationIndex.load(directory)
