"""The CodeLlama tokenizer: fetch, load, save, encode, decode, train another.

    python3 tokenizer.py                                # fetch it once
    python3 tokenizer.py --encode "Hello world"
    python3 tokenizer.py --decode 15043,3186
    python3 tokenizer.py --load DIR --encode "Hello"    # tokenizer.json or .model
    python3 tokenizer.py --report data/cleaned_articles/cleaned_0.txt
    python3 tokenizer.py --train cleaned_0.txt --vocab-size 8000 --output DIR

It is kept in paths.tokenizer_dir. `--report` measures compression, byte fallback and speed. Token ids match
SentencePiece's for any text, and ``decode(encode(text)) == text`` for any text without U+2581.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.formats.cleaned_text import read_articles
from pipeline.tokenization.train_tokenizer import train_tokenizer
from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer, load_tokenizer
from utils.cli import run, stage_parser
from utils.errors import UsageError
from utils.terminal import say, visible

if TYPE_CHECKING:
    from pipeline.configuration import Config

__all__ = ["WikipediaTokenizer", "load_tokenizer"]


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    tokenizer = _chosen_tokenizer(args, load_config_from(args))
    say(tokenizer.describe())
    if args.report:
        from pipeline.tokenization.report import measure

        print(measure(read_articles([args.report]), tokenizer.vocabulary, tokenizer.encode_batch).table())
    if args.encode is not None:
        print(",".join(map(str, tokenizer.encode(args.encode))))
    if args.decode is not None:
        text = tokenizer.decode(_parse_ids(args.decode))
        print(visible(text) if sys.stdout.isatty() else text)  # a file or a pipe gets exactly the text
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--load", metavar="DIR", help="use the tokenizer in this folder")
    parser.add_argument("--encode", metavar="TEXT", help="print the ids of TEXT, with commas, as the last line")
    parser.add_argument("--decode", metavar="IDS", help="print the text of comma-separated ids")
    parser.add_argument("--report", metavar="FILE", help="measure it on a text with one article per line")
    parser.add_argument(
        "--train", metavar="FILE", nargs="+", type=Path, help="train one on texts with one article per line"
    )
    parser.add_argument("--vocab-size", metavar="N", type=int, help="vocabulary size of the tokenizer to train")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for the trained tokenizer")
    args = parser.parse_args(argv)
    if args.train and not (args.vocab_size and args.output):
        raise UsageError("--train also requires --vocab-size N and --output DIR")
    if not args.train and (args.vocab_size or args.output):
        raise UsageError("--vocab-size and --output are only valid with --train FILE…")
    if args.train and args.load:
        raise UsageError("--train and --load cannot be used together")
    return args


def _chosen_tokenizer(args: argparse.Namespace, config: "Config") -> WikipediaTokenizer:
    if args.train:
        return train_tokenizer(args.train, args.vocab_size, args.output)
    if args.load:
        return load_tokenizer(args.load)
    return load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(number) for number in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(f"invalid --decode value {text!r}; expected comma-separated ids such as 15043,3186") from None


if __name__ == "__main__":
    run(main)
