"""`WikipediaTokenizer`: texts to ids and back, with SentencePiece's own ids.

    tokenizer = load_tokenizer("tokenizers/codellama_tokenizer", name="codellama/CodeLlama-7b-hf")
    ids = tokenizer.encode("Hello world", add_bos=True)

``decode(encode(text)) == text`` for every text without U+2581.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import CHECKOUT
from pipeline.formats.cleaned_text import read_articles
from pipeline.tokenization.fetch_tokenizer import fetch_tokenizer
from pipeline.tokenization.tokenizer_folder import read_vocabulary, refuse_unread_file, tokenizer_file
from pipeline.tokenization.vocabulary import Vocabulary
from utils.checksums import SUMS_NAME, write_sums
from utils.errors import PipelineError
from utils.files import remove_stale_temporaries, write_text

if TYPE_CHECKING:
    import numpy as np

    from pipeline.tokenization.bulk_encoding import BulkEncoder

DEFAULT_DIRECTORY = CHECKOUT / "tokenizers" / "codellama_tokenizer"


class WikipediaTokenizer:
    """A byte-fallback BPE in CodeLlama's layout over Hugging Face's `tokenizers`.

    Args:
        directory: a folder with `tokenizer.model` or `tokenizer.json`.

    Raises:
        PipelineError: neither is there, or it is a tokenizer of another kind.
    """

    def __init__(self, directory: str | Path = DEFAULT_DIRECTORY) -> None:
        self._set(read_vocabulary(Path(directory)), Path(directory))

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
        """The ids of each text by Hugging Face's engine, which is tested against SentencePiece."""
        return [encoding.ids for encoding in self._engine.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special ids are left out, bytes that are not UTF-8 become U+FFFD."""
        pieces = self.vocabulary.token_bytes
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise PipelineError(f"token id {wrong} is not in the vocabulary; expected 0 to {self.vocab_size - 1}")
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
        """Write a `tokenizer.json`, which Hugging Face's programs read too; by default into the tokenizer's folder."""
        path = Path(directory or self.directory) / "tokenizer.json"
        refuse_unread_file(path)
        remove_stale_temporaries(path.parent, path.name, SUMS_NAME)
        (path.parent / SUMS_NAME).unlink(missing_ok=True)
        write_text(path, self.vocabulary.to_json(added_tokens=True))
        write_sums(path.parent, [path.name])
        return path

    def describe(self) -> str:
        """The folder, the size, the special pieces and the fingerprint in one line."""
        special = ", ".join(f"{self.vocabulary.pieces[i]} {i}" for i in (self.unk_id, self.bos_id, self.eos_id))
        size = f"{self.vocab_size:,} pieces ({special})"
        return f"tokenizer in {self.directory}: {size}, fingerprint {self.fingerprint[:16]}"

    @cached_property
    def _bulk(self) -> "BulkEncoder":
        from pipeline.tokenization.bulk_encoding import BulkEncoder

        return BulkEncoder(self.vocabulary, reference=self.encode_batch_reference)


def load_tokenizer(directory: str | Path, *, name: str | None = None) -> WikipediaTokenizer:
    """The tokenizer in `directory`; if it has none, fetch the hub's `name` into it first."""
    directory = Path(directory)
    if name is not None and not tokenizer_file(directory):
        fetch_tokenizer(name, directory)
    return WikipediaTokenizer(directory)


def _refuse_surrogates(texts: Sequence[str]) -> None:
    """Raise a PipelineError for the first text that is not valid Unicode."""
    for text in texts:
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                raise PipelineError(
                    f"the text contains a lone surrogate U+{ord(character):04X} at character {place}; fix the "
                    "source, or remove it with text.encode('utf-8', 'ignore').decode()"
                )
