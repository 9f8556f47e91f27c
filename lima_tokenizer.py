"""LIMA's conversations → token ids and loss masks for `post_training.py`.

python3 lima_tokenizer.py                        # LIMA from the hub (gated)
python3 lima_tokenizer.py --input chats.jsonl    # your own; JSON or Parquet
python3 lima_tokenizer.py --input a.jsonl=0.7 --input b.parquet=0.3
"""

import argparse

from pipeline.configuration import load_config_from
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import UsageError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument(
        "--input",
        metavar="FILE[=WEIGHT]",
        action="append",
        default=[],
        help="your own conversations, with their share (repeatable)",
    )
    parser.add_argument(
        "--decontaminate",
        dest="dataset.decontaminate",
        metavar="DIR",
        help="drop what shares a 13-gram with the benchmark files in DIR",
    )
    parser.add_argument(
        "--max-length",
        dest="sft.max_length",
        metavar="N",
        type=int,
        help="maximum number of tokens in a conversation (sft.max_length)",
    )
    parser.add_argument("--batch-size", type=int, default=100, help="conversations tokenized together (%(default)s)")
    parser.add_argument(
        "--too-long", choices=("drop", "truncate"), default="drop", help="what to do with longer ones (%(default)s)"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first malformed conversation")
    parser.add_argument(
        "--preview", metavar="N", type=int, default=0, help="show N conversations, with the learned parts in color"
    )
    parser.keep_for_help_all("--batch-size", "--strict")
    args = parser.parse_args(argv)
    if args.batch_size < 1 or args.preview < 0:
        raise UsageError("--batch-size must be at least 1 and --preview at least 0")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    from pipeline.preparation.decontamination import EvaluationIndex
    from pipeline.tuning.conversations import ConversationOptions
    from pipeline.tuning.mixture import check_sources, parse_source
    from pipeline.tuning.write_dataset import prepare_conversations

    folder = config.dataset.decontaminate
    sources = [parse_source(text) for text in args.input]
    check_sources(sources)
    prepare_conversations(
        config,
        ConversationOptions(config.sft.max_length, args.too_long, args.strict),
        sources=sources,
        evaluation=EvaluationIndex.load(folder) if folder else None,
        batch_size=args.batch_size,
        preview=args.preview,
    )
    return EXIT_OK


if __name__ == "__main__":
    run(main)
