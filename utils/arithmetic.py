"""Small sums that several modules need."""


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator`, rounded up: how many boxes of `denominator` hold `numerator` things."""
    return -(-numerator // denominator)
