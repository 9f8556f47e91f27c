"""The 95% interval of a share, for every room that shows one."""

import math

Z_95 = 1.959964  # standard deviations to each side that hold 95% of a normal distribution


def wilson_interval(right: float, total: float) -> tuple[float, float]:
    """The 95% interval of a share, which stays within 0 and 1 for small counts too (Wilson 1927, JASA 22)."""
    if not total:
        return 0.0, 1.0
    share, spread = right / total, Z_95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def percent_range(interval: tuple[float, float]) -> str:
    """``94% to 98%`` for an interval of shares."""
    low, high = interval
    return f"{100 * low:.0f}% to {100 * high:.0f}%"
