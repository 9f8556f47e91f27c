"""Train a byte-fallback BPE in CodeLlama's layout: three special ids, then 256 bytes, then pieces.

The pieces are learned by Hugging Face's trainer. The merges are then SentencePiece's (`merges_by_priority`: every split
of a piece, the piece learned first wins): the result behaves as a SentencePiece model with those pieces in that order.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.tokenization.vocabulary import BYTE_PIECES, SPACE, SPECIAL_PIECES, Vocabulary, merges_by_priority
from utils.errors import PipelineError

CHARACTER_COVERAGE = 0.99995  # Llama's; the rarer characters fall back to their bytes
MAX_PIECE_LENGTH = 16  # Llama's

_NUM_RESERVED = len(SPECIAL_PIECES) + len(BYTE_PIECES)
# Pieces are learned inside a run of spaces, a word with the space before it, one digit, or a run of other signs, as
# Llama's split_by_whitespace, split_digits and split_by_unicode_script do. Newlines always fall back to their byte.
_WORDS = (
    rf"{SPACE}+(?={SPACE})|{SPACE}?[\p{{L}}\p{{M}}]+|{SPACE}?\p{{N}}|{SPACE}?[^\p{{L}}\p{{M}}\p{{N}}{SPACE}]+|{SPACE}+"
)


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> Vocabulary:
    """A vocabulary of `vocab_size` pieces learned from `texts`, the same for the same texts.

    Raises:
        PipelineError: the size leaves no room for pieces, or the texts do not have enough different pieces.
    """
    texts = list(texts)
    alphabet = _alphabet(texts, limit=(vocab_size - _NUM_RESERVED) // 2)
    if not alphabet:
        raise PipelineError("no text to train a tokenizer on; expected non-empty files")
    pieces = _learn(texts, alphabet, vocab_size)
    if len(pieces) < vocab_size:
        raise PipelineError(
            f"the text yields only {len(pieces):,} distinct pieces, but the vocabulary size is {vocab_size:,}; "
            f"provide more text, or pass --vocab-size {len(pieces)}"
        )
    reserved = frozenset(range(_NUM_RESERVED))
    return Vocabulary(pieces, merges_by_priority(pieces, [-i for i in range(len(pieces))], reserved=reserved))


def _alphabet(texts: list[str], *, limit: int) -> list[str]:
    """The characters that get a piece of their own, the most frequent first, at most `limit`."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.replace(" ", SPACE))
    counts.pop("\n", None)
    needed = CHARACTER_COVERAGE * counts.total()
    covered = 0
    alphabet: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= needed or len(alphabet) == limit:
            break
        alphabet.append(character)
        covered += count
    return alphabet


def _learn(texts: list[str], alphabet: list[str], vocab_size: int) -> tuple[str, ...]:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    rare = Regex(f"[^{''.join(map(re.escape, alphabet))}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(rare, "removed"), pre_tokenizers.Split(Regex(_WORDS), "isolated")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_PIECES, *BYTE_PIECES],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        max_token_length=MAX_PIECE_LENGTH,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(texts), trainer)
    ids = tokenizer.get_vocab()
    return tuple(sorted(ids, key=ids.__getitem__))


def _lines(texts: list[str]) -> Iterator[str]:
    """Line by line: the trainer works through a batch of lines on every core."""
    for text in texts:
        yield from filter(None, text.split("\n"))
