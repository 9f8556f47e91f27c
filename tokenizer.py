"""The CodeLlama tokenizer: fetch, load, save, encode, decode, train another.

    python3 tokenizer.py                                  # fetch it once into tokenizers/codellama_tokenizer/
    python3 tokenizer.py --encode "Hello world"           # the last line: the ids, comma-separated
    python3 tokenizer.py --decode 15043,3186
    python3 tokenizer.py --load DIR [--encode …]          # another folder's tokenizer.json or tokenizer.model
    python3 tokenizer.py --report data/cleaned_articles/cleaned_0.txt   # compression, byte fallback, speed
    python3 tokenizer.py --train data/cleaned_articles/cleaned_*.txt --vocab-size 8000 --output tokenizers/mine

Ids are SentencePiece's own on every text, and ``decode(encode(text)) == text`` for every text without U+2581.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.formats.cleaned_text import check_cleaned_text, from_line
from pipeline.tokenization.vocabulary import Vocabulary
from utils.checksums import SUMS_NAME, check_sums, write_sums
from utils.cli import run, stage_parser
from utils.errors import PipelineError, UsageError
from utils.files import refuse_overwriting, remove_stale_temporaries, whole_file, write_text
from utils.quickstart_hint import or_quickstart
from utils.terminal import format_seconds, visible

if TYPE_CHECKING:
    import numpy as np

    from pipeline.tokenization.bulk_encoding import BulkEncoder

DEFAULT_DIRECTORY = Path(__file__).resolve().parent / "tokenizers" / "codellama_tokenizer"
FILE_NAMES = ("tokenizer.model", "tokenizer.json")  # if both are there, SentencePiece's own file counts


class WikipediaTokenizer:
    """A byte-fallback BPE in CodeLlama's layout over Hugging Face's `tokenizers`.

    Args:
        directory: a folder with `tokenizer.model` or `tokenizer.json`.

    Raises:
        PipelineError: neither is there, or it is a tokenizer of another kind.
    """

    def __init__(self, directory: str | Path = DEFAULT_DIRECTORY) -> None:
        self._set(_read_vocabulary(Path(directory)), Path(directory))

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, directory: str | Path) -> "WikipediaTokenizer":
        """A tokenizer of `vocabulary` named after `directory`, where `save` puts it by default."""
        tokenizer = cls.__new__(cls)
        tokenizer._set(vocabulary, Path(directory))
        return tokenizer

    @classmethod
    def train(cls, files: Iterable[str | Path], vocab_size: int, directory: str | Path) -> "WikipediaTokenizer":
        """A new tokenizer learned from `files`, one article a line as `cleaner.py` writes them; not saved yet."""
        from pipeline.tokenization.bpe_training import train_vocabulary

        return cls.from_vocabulary(train_vocabulary(read_articles(files), vocab_size), directory)

    def _set(self, vocabulary: Vocabulary, directory: Path) -> None:
        from tokenizers import Tokenizer

        self.vocabulary = vocabulary
        self.directory = directory
        self.name = directory.resolve().name
        self.vocab_size = len(vocabulary.pieces)
        self.unk_id = vocabulary.unk_id
        self.bos_id = vocabulary.bos_id
        self.eos_id = vocabulary.eos_id
        # Without added tokens: the characters <s> in a text are text.
        self._engine = Tokenizer.from_str(vocabulary.to_json(added_tokens=False))

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def fingerprint(self) -> str:
        """The same for every file form of this tokenizer; stored with datasets and checkpoints."""
        return self.vocabulary.fingerprint

    def encode(self, text: str, *, add_bos: bool = False, add_eos: bool = False) -> list[int]:
        """The ids of `text`.

        Raises:
            PipelineError: `text` holds a lone surrogate.
        """
        try:
            ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            _refuse_surrogates([text])
            raise
        if add_bos:
            ids.insert(0, self.bos_id)
        if add_eos:
            ids.append(self.eos_id)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> "list[np.ndarray]":
        """The ids of each text as uint16, without BOS and EOS, by the bulk engine."""
        try:
            return self._bulk.encode(texts)
        except UnicodeEncodeError:
            _refuse_surrogates(texts)
            raise

    def verify_batch(self, texts: Sequence[str]) -> None:
        """Raise a PipelineError if the bulk engine's ids for `texts` differ from the reference's."""
        self._bulk.verify(texts)

    def encode_batch_reference(self, texts: Sequence[str]) -> list[list[int]]:
        """What `encode_batch` is checked against: Hugging Face's engine, itself tested against SentencePiece."""
        return [encoding.ids for encoding in self._engine.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special ids are left out, bytes that are not UTF-8 become U+FFFD."""
        pieces = self.vocabulary.token_bytes
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise PipelineError(f"id {wrong} is not in the vocabulary; expected 0 to {self.vocab_size - 1}")
        content = b"".join([pieces[i] for i in ids])
        # The space that encoding put before the text is taken off again.
        return content.removeprefix(b" ").decode("utf-8", errors="replace")

    def token_bytes(self) -> tuple[bytes, ...]:
        """The bytes of every id: `decode` is these joined, less one leading space."""
        return self.vocabulary.token_bytes

    def token_byte_lengths(self) -> "np.ndarray":
        """(V,) how many bytes each id stands for, 0 for special ids: bits per byte need it."""
        import numpy as np

        return np.array([len(piece) for piece in self.vocabulary.token_bytes], dtype=np.int64)

    def save(self, directory: str | Path | None = None) -> Path:
        """Write `tokenizer.json`, as Hugging Face's programs read it too, by default into `directory`."""
        path = Path(directory or self.directory) / "tokenizer.json"
        _refuse_other_file(path)
        remove_stale_temporaries(path.parent, path.name, SUMS_NAME)
        (path.parent / SUMS_NAME).unlink(missing_ok=True)
        write_text(path, self.vocabulary.to_json(added_tokens=True))
        write_sums(path.parent, [path.name])
        return path

    @cached_property
    def _bulk(self) -> "BulkEncoder":
        from pipeline.tokenization.bulk_encoding import BulkEncoder

        return BulkEncoder(self.vocabulary, reference=self.encode_batch_reference)


def load_tokenizer(directory: str | Path, *, name: str | None = None) -> WikipediaTokenizer:
    """The tokenizer in `directory`; if there is none, `name` is fetched into it from the Hugging Face hub first."""
    directory = Path(directory)
    if name is not None and not _file_in(directory):
        fetch(name, directory)
    return WikipediaTokenizer(directory)


def fetch(name: str, directory: Path) -> None:
    """Save the tokenizer of the hub's repository `name` in `directory`.

    Raises:
        PipelineError: the hub can't be reached, or has no such tokenizer; names three alternatives.
    """
    from utils.hub_connection import HubError, download

    reason: object = "it has neither a tokenizer.json nor a tokenizer.model"
    try:
        for file in ("tokenizer.json", "tokenizer.model"):
            content = download(name, file)
            if content is not None:
                with whole_file(directory / file) as target:
                    target.write(content)
                _check_fetched(directory / file)
                write_sums(directory, [file])
                return
    except HubError as error:
        reason = error
    problem = f"tokenizer {name} could not be fetched from the Hugging Face hub ({reason})"
    raise PipelineError(f"{problem}; {_alternatives(directory)}")


def _check_fetched(path: Path) -> None:
    """Keep a fetched file only if it is a tokenizer, not some proxy's page."""
    try:
        _read_vocabulary(path.parent)
    except PipelineError:
        path.unlink()
        raise


def _alternatives(directory: Path) -> str:
    return (
        f"put its tokenizer.json or tokenizer.model into {directory}, or name a folder that has one with --load DIR, "
        "or train your own: python3 tokenizer.py --train FILE… --vocab-size 8000 --output DIR"
        f"{or_quickstart(directory)}"
    )


def read_articles(files: Iterable[str | Path]) -> Iterator[str]:
    """The articles of cleaned text files, one a line."""
    for path in map(Path, files):
        try:
            with path.open(encoding="utf-8", newline="\n") as lines:
                yield from map(from_line, lines)
        except FileNotFoundError:
            raise PipelineError(f"{path} does not exist; expected cleaned text, run: python3 cleaner.py") from None
        except UnicodeDecodeError as error:
            raise PipelineError(f"{path} is not UTF-8: {error}") from None


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    if args.train:
        tokenizer = _train(args)
    elif args.load:
        tokenizer = load_tokenizer(args.load)
    else:
        tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    print(describe(tokenizer))
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
    parser.add_argument("--encode", metavar="TEXT", help="print the ids of TEXT, the last line, comma-separated")
    parser.add_argument("--decode", metavar="IDS", help="print the text of comma-separated ids")
    parser.add_argument("--report", metavar="FILE", help="measure the tokenizer on a text, one article a line")
    parser.add_argument(
        "--train", metavar="FILE", nargs="+", help="learn a tokenizer from cleaned text, one article a line"
    )
    parser.add_argument("--vocab-size", metavar="N", type=int, help="pieces of the tokenizer to train")
    parser.add_argument("--output", metavar="DIR", help="folder for the trained tokenizer")
    args = parser.parse_args(argv)
    if args.train and not (args.vocab_size and args.output):
        raise UsageError("--train needs --vocab-size N and --output DIR too")
    if not args.train and (args.vocab_size or args.output):
        raise UsageError("--vocab-size and --output belong to --train FILE…")
    if args.train and args.load:
        raise UsageError("--train makes a tokenizer and --load reads one; give one of them")
    return args


def describe(tokenizer: WikipediaTokenizer) -> str:
    special = ", ".join(
        f"{tokenizer.vocabulary.pieces[i]} {i}" for i in (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    )
    size, fingerprint = f"{tokenizer.vocab_size:,} pieces ({special})", tokenizer.fingerprint[:16]
    return f"tokenizer in {tokenizer.directory}: {size}, fingerprint {fingerprint}"


def _train(args: argparse.Namespace) -> WikipediaTokenizer:
    output = Path(args.output) / "tokenizer.json"
    _refuse_other_file(output)
    refuse_overwriting(map(Path, args.train), [output])
    check_cleaned_text([Path(path) for path in args.train])
    started = time.perf_counter()
    tokenizer = WikipediaTokenizer.train(args.train, args.vocab_size, args.output)
    path = tokenizer.save()
    print(f"trained on {len(args.train)} files in {format_seconds(time.perf_counter() - started)}, saved as {path}")
    return tokenizer


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(number) for number in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(f"--decode {text!r}; expected comma-separated ids such as 15043,3186") from None


def _file_in(directory: Path) -> Path | None:
    return next((directory / name for name in FILE_NAMES if (directory / name).is_file()), None)


def _refuse_other_file(path: Path) -> None:
    """Refuse to write a tokenizer.json that would not count, because a tokenizer.model is next to it."""
    if _file_in(path.parent) not in (None, path):
        raise PipelineError(
            f"{path.parent} holds a {FILE_NAMES[0]}, which would be read instead of what is saved; give another folder"
        )


def _read_vocabulary(directory: Path) -> Vocabulary:
    path = _file_in(directory)
    if directory.is_file():
        raise PipelineError(f"{directory} is a file; expected the folder that holds it, {directory.parent}")
    if path is None:
        raise PipelineError(f"{directory} holds no tokenizer; {_alternatives(directory)}")
    check_sums(directory, remedy="fetch or train it again")
    if path.suffix == ".model":
        from pipeline.tokenization.sentencepiece_file import read_sentencepiece

        return read_sentencepiece(path)
    from pipeline.tokenization.tokenizer_json import read_tokenizer_json

    return read_tokenizer_json(path)


def _refuse_surrogates(texts: Sequence[str]) -> None:
    """Raise a PipelineError for the first text that is not valid Unicode."""
    for text in texts:
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                raise PipelineError(
                    f"the text holds a lone surrogate U+{ord(character):04X} at character {place}; "
                    "fix its source, or drop it: text.encode('utf-8', 'ignore').decode()"
                )


if __name__ == "__main__":
    run(main)
