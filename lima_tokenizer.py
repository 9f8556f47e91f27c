"""LIMA's conversations → token ids and loss masks for `post_training.py`.

python3 lima_tokenizer.py                                  # LIMA from the hub (gated: accept its terms first)
python3 lima_tokenizer.py --input chats.jsonl              # your own: `conversations` or OpenAI-style `messages`
python3 lima_tokenizer.py --max-length 1024 --too-long truncate --preview 2
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.configuration import Config, load_config_from
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from utils.cli import run, stage_parser
from utils.errors import PipelineError, UsageError
from utils.files import refuse_overwriting, whole_file
from utils.hub_connection import HubError, download

LIMA = "GAIR/lima"
RAW_NAME = "lima_train.jsonl"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--input", metavar="FILE.jsonl", type=Path, help="your own conversations instead of LIMA")
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
    parser.add_argument("--preview", metavar="N", type=int, default=0, help="show N of them, learned parts in colour")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.batch_size < 1 or args.preview < 0:
        raise UsageError("--batch-size must be at least 1 and --preview at least 0")
    config = load_config_from(args)
    prepare_lima(
        config, source=args.input, batch_size=args.batch_size, too_long=args.too_long, strict=args.strict,
        preview=args.preview,
    )  # fmt: skip
    return 0


def prepare_lima(
    config: Config,
    *,
    source: Path | None = None,
    batch_size: int = 100,
    too_long: str = "drop",
    strict: bool = False,
    preview: int = 0,
) -> dict[str, Any]:
    """Tokenize `source` (None: LIMA) into `config.paths.post_training_dir`; returns the metadata written there.

    Raises:
        PipelineError: no tokenizer, no access to LIMA, nothing to learn; with `strict`, any malformed conversation.
    """
    from pipeline.tuning.conversations import (
        ConversationOptions,
        ConversationReport,
        iter_conversations,
        prepare_examples,
        show_preview,
    )
    from pipeline.tuning.dataset import WRITTEN_NAMES, write_sft_dataset

    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    directory = config.paths.post_training_dir
    source = source or fetch_lima(directory / RAW_NAME)
    refuse_overwriting([source], [directory / name for name in WRITTEN_NAMES])
    report = ConversationReport(ConversationOptions(config.sft.max_length, too_long=too_long, strict=strict))
    conversations = iter_conversations(source, report)
    examples = list(prepare_examples(conversations, tokenizer, report, batch_size=batch_size))
    for example in islice(examples, preview):
        print(show_preview(example, tokenizer), end="\n\n")
    print(report.summary())
    if not examples:
        raise PipelineError(f"{source} has no usable conversation; the counts above say why")
    metadata = write_sft_dataset(directory, examples, tokenizer, report, source=source)
    print(f"{metadata['tokens']:,} tokens, {metadata['learned_tokens']:,} of them learned, in {directory}")
    return metadata


def fetch_lima(path: Path) -> Path:
    """Download LIMA's training split from the hub to `path` unless the file exists."""
    if path.is_file():
        return path
    print(f"downloading {LIMA} from the Hugging Face hub …")
    try:
        content = download(LIMA, "train.jsonl", repo_type="dataset")
    except HubError as error:
        problem = "is gated" if error.refused else f"could not be downloaded ({error}); it is gated"
        raise _no_access(problem) from None
    if content is None:
        raise _no_access("no longer has a train.jsonl")
    with whole_file(path) as file:
        file.write(content)
    return path


def _no_access(problem: str) -> PipelineError:
    return PipelineError(
        f"{LIMA} {problem}: accept its terms at https://huggingface.co/datasets/{LIMA} and log in with: hf auth login "
        f"(or set HF_TOKEN); or prepare your own conversations with: --input FILE.jsonl"
    )


if __name__ == "__main__":
    run(main)
