"""Input files with weights, and how many examples to take of each.

    sources = [parse_source("a.jsonl=0.7"), parse_source("b.parquet=0.3")]
    check_sources(sources)
    apportion([1000, 900], [source.weight for source in sources])      # [1000, 429]

Weights are shares of the examples. No example is repeated, because a copy could be held out while another is learned;
so the file with the fewest examples for its share limits the size of the mixture.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.formats.cleaned_text import printable_name
from utils.errors import UsageError


@dataclass(frozen=True)
class Source:
    """A file of conversations and its share of the examples, relative to the others' (None: take all)."""

    path: Path
    weight: Fraction | None = None


def parse_source(text: str) -> Source:
    """``FILE`` or ``FILE=WEIGHT``; a file whose own name ends like that is taken as it is.

    Raises:
        UsageError: a weight that is not above 0.
    """
    path, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return Source(Path(text))
    try:
        value = Fraction(weight)
    except (ValueError, ZeroDivisionError):
        return Source(Path(text))
    if value <= 0:
        raise UsageError(f"--input {text}: the weight is {weight}; expected a number above 0")
    return Source(Path(path), value)


def check_sources(sources: Sequence[Source]) -> None:
    """Raise UsageError for a file that is given twice, or weights for some of the files only."""
    files = Counter(source.path.resolve() for source in sources)
    for source in sources:
        if files[source.path.resolve()] > 1:
            raise UsageError(f"--input {source.path} is given {files[source.path.resolve()]} times; expected once")
    missing = [source.path for source in sources if source.weight is None]
    if missing and len(missing) < len(sources):
        raise UsageError(f"--input {missing[0]} has no weight, but others have; give all of them one, or none")


def source_names(sources: Sequence[Source]) -> list[str]:
    """A printable name for each file, numbered if several have the same."""
    names = [printable_name(source.path.name) for source in sources]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} ({seen[name]})" if names.count(name) > 1 else name)
    return unique


def apportion(available: Sequence[int], weights: Sequence[Fraction]) -> list[int]:
    """The largest numbers in the proportions of `weights`, rounded by largest remainder, within `available`."""
    whole = sum(weights)
    size = min(math.floor(count * whole / weight) for count, weight in zip(available, weights, strict=True))
    quotas = [size * weight / whole for weight in weights]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda place: (counts[place] - quotas[place], place))
    for place in by_remainder[: size - sum(counts)]:
        counts[place] += 1
    return counts


def draw(available: int, count: int, *, seed: int, place: int) -> list[int]:
    """`count` of `available` places in ascending order, the same for one seed and `place`."""
    if count == available:
        return list(range(available))
    order = np.random.default_rng([seed, place]).permutation(available)
    chosen: list[int] = np.sort(order[:count]).tolist()
    return chosen
