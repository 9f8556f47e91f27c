"""What repeated text is worth, for runs that see their data more than once.

D = effective_tokens(tokens=3_000_000, unique=1_000_000)

Muennighoff et al. 2023 (arXiv:2305.16264): each repetition is worth less than the one before; with R repetitions beyond
the first pass, U unique tokens count as U + U R* (1 - exp(-R / R*)), where R* is about 15.
"""

import math

_HALF_LIFE = 15.39  # R*, fitted to repeated tokens in that paper
UNUSUAL_PASSES = 4.0  # up to four passes are almost as good as new text, as that paper found


def passes(tokens: float, unique: float) -> float:
    """How often a run sees its text."""
    return tokens / unique


def effective_tokens(tokens: float, unique: float) -> float:
    """The number of tokens of new text that would teach as much."""
    if tokens <= unique:
        return tokens
    repetitions = tokens / unique - 1
    return unique + unique * _HALF_LIFE * (1 - math.exp(-repetitions / _HALF_LIFE))
