"""Published quality rules for web text. Each is a pure function, text → the reason to drop it, or None.

    rejection(text, ["gopher_stop_words", "c4"])        # None, or a reason such as "gopher_stop_words"

Thresholds are from the papers. As in both papers, words are separated by white space.

Gopher: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
arXiv:2112.11446, appendix A.1.1 and table A1. C4: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer", JMLR 21(140), section 2.2.
"""

import re
from collections.abc import Callable, Sequence

from utils.errors import PipelineError, did_you_mean

Rule = Callable[[str], str | None]

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_TOP_NGRAM_LIMITS = {2: 0.20, 3: 0.18, 4: 0.16}
_DUPLICATE_NGRAM_LIMITS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_BULLETS = ("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "-", "–", "*", "●")
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")
# C4: "a terminal punctuation mark (i.e. a period, exclamation mark, question mark, or end quotation mark)"
_TERMINAL = (".", "!", "?", '"', "”")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def gopher_quality(text: str) -> str | None:
    """50 to 100,000 words with a mean length of 3 to 10, most with a letter; few symbols, bullets and ellipses."""
    words = text.split()
    lines = text.splitlines()
    if not 50 <= len(words) <= 100_000:
        return "gopher_word_count"
    if not 3 <= sum(map(len, words)) / len(words) <= 10:
        return "gopher_word_length"
    if max(text.count("#"), text.count("...") + text.count("…")) / len(words) > 0.1:
        return "gopher_symbols"
    if sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines) > 0.9:
        return "gopher_bullets"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return "gopher_ellipses"
    if sum(_LETTER.search(word) is not None for word in words) / len(words) < 0.8:
        return "gopher_letters"
    return None


def gopher_stop_words(text: str) -> str | None:
    """At least two of eight very common English words."""
    return None if len(_STOP_WORDS.intersection(text.lower().split())) >= 2 else "gopher_stop_words"


def gopher_repetition(text: str) -> str | None:
    """Limited shares of repeated lines and paragraphs, of the top n-gram, and of repeated n-grams."""
    if _is_repetitive([line for line in text.splitlines() if line.strip()], len(text)):
        return "gopher_duplicate_lines"
    if _is_repetitive([part for part in re.split(r"\n\s*\n", text) if part.strip()], len(text)):
        return "gopher_duplicate_paragraphs"
    return _ngram_reason(text.split(), len(text))


def c4(text: str) -> str | None:
    """No curly brackets, no "lorem ipsum", and at least three sentences in the lines that C4 would keep."""
    if "{" in text:
        return "c4_curly_bracket"
    if "lorem ipsum" in text.lower():
        return "c4_lorem_ipsum"
    sentences = sum(len(_SENTENCE_END.findall(line)) for line in text.splitlines() if _is_c4_line(line))
    return "c4_few_sentences" if sentences < 3 else None


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (gopher_quality, gopher_stop_words, gopher_repetition, c4)}
RULE_NAMES = tuple(RULES)


def rejection(text: str, names: Sequence[str]) -> str | None:
    """The reason of the first rule in `names` that rejects `text`, or None."""
    for name in names:
        reason = RULES[name](text)
        if reason:
            return reason
    return None


def check_rule_names(names: Sequence[str]) -> None:
    """Raise PipelineError for a name that is not a rule."""
    for name in names:
        if name not in RULES:
            raise PipelineError(
                f"unknown quality rule {name!r}; expected one of {', '.join(RULES)}{did_you_mean(name, RULES)}"
            )


def _is_repetitive(blocks: Sequence[str], num_characters: int) -> bool:
    """More than 30% of the blocks, or 20% of the text in them, repeat an earlier block."""
    seen: set[str] = set()
    repeated = []
    for block in blocks:
        if block in seen:
            repeated.append(block)
        seen.add(block)
    return len(repeated) > 0.3 * len(blocks) or sum(map(len, repeated)) > 0.2 * num_characters


def _ngram_reason(words: Sequence[str], num_characters: int) -> str | None:
    import numpy as np

    numbers: dict[str, int] = {}
    word_ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    ends = np.cumsum([0, *map(len, words)])
    ngrams = word_ids
    for n in range(2, min(len(words), 10) + 1):
        # The number of an n-gram combines those of its first n - 1 words and its last word, renumbered to stay small.
        ngrams = np.unique(ngrams[:-1] * len(numbers) + word_ids[n - 1 :], return_inverse=True)[1]
        counts = np.bincount(ngrams)
        if counts.max() == 1:  # no n-gram is repeated, so no longer one is
            return None
        lengths = ends[n:] - ends[:-n]  # characters of the n-gram that starts at each word
        if n in _TOP_NGRAM_LIMITS:
            most = lengths[counts[ngrams] == counts.max()].max() + n - 1  # including the spaces in between
            if most * counts.max() > _TOP_NGRAM_LIMITS[n] * num_characters:
                return "gopher_top_ngram"
        elif _repeated_characters(ngrams.tolist(), lengths.tolist(), n) > _DUPLICATE_NGRAM_LIMITS[n] * num_characters:
            return "gopher_duplicate_ngrams"
    return None


def _repeated_characters(ngrams: Sequence[int], lengths: Sequence[int], n: int) -> int:
    """The number of characters in repeated n-grams; overlapping ones count once."""
    seen: set[int] = set()
    characters = 0
    i = 0
    while i < len(ngrams):
        if ngrams[i] in seen:
            characters += lengths[i]
            i += n
        else:
            seen.add(ngrams[i])
            i += 1
    return characters


def _is_c4_line(line: str) -> bool:
    lowered = line.lower()
    ends = line.rstrip().endswith(_TERMINAL) and not line.rstrip().endswith("...")
    return ends and len(line.split()) >= 5 and "javascript" not in lowered and not any(p in lowered for p in _POLICY)
