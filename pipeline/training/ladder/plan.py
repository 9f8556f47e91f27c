"""Decide which small runs a ladder consists of, so that together they stay within a share of the configured run.

    plan = make_plan(target, share=0.1)
    plan.flops / target.flops       # at most 0.1

Every point of the fit is a finished run with its own warm-up and decay: a loss read off in the middle of a longer
schedule is higher than that of a run which ends there (Hoffmann et al. 2022), and a branch from a constant rate exists
for one of the two schedules only. The two smaller sizes have three lengths and the two larger ones two, each a third of
the one before. Three lengths tell the exponent of the tokens from their factor and from the floor, and the four sizes
do the same for the parameters.

As far as the widths allow, the longest run sees as many tokens per parameter as the configured run, so that the
prediction extrapolates size and length by the same factor. The tokens of a step grow with the square root of a run's
tokens, as the batch that pays does (Zhang et al. 2024, arXiv:2410.21676), up to the configured step at the configured
length. At that batch, the best learning rate hardly depends on the length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from pipeline.modeling.config import ModelConfig
from pipeline.modeling.flops import matrix_parameters, training_flops_per_token
from pipeline.training.ladder.sizes import ladder_sizes
from utils.arithmetic import ceil_div
from utils.errors import PipelineError

MAX_SHARE = 0.1
FEWEST_STEPS = 150  # in the shortest run; at first, models of all sizes only learn how frequent each token is
_LENGTHS = ((0, 1, 2), (0, 1, 2), (0, 1), (0, 1))  # for each size, powers of a third of the longest length
_SHORTER = 3
SEARCH_LENGTH = 1  # the rate is searched at a third of the longest length
MOST_SEARCH_RUNS = 6  # at the smallest size
CHECK_RUNS = 2  # at the second size, besides the one that is a point of the fit
_NOISE_SHARE = 0.1  # of the longest run at the largest size, for measuring the noise scale
_FEWEST_NOISE_WINDOWS, _MOST_NOISE_WINDOWS = 32, 1024
_NARROWEST = 12  # narrower models do worse than the law of the others says
_WIDTH_RANGES = (3.5, 2.5)  # from the smallest width to the largest
_SIZE_DIVISORS = (2, 3, 4, 5, 6, 7, 8, 10, 12)  # how much smaller the largest of the small models may be
_VALIDATION_SHARE = 0.25  # of the longest run's tokens


@dataclass(frozen=True)
class Target:
    """The configured run: the model, the tokens it sees, and how a step is made.

    Attributes:
        batch_size: windows in one forward pass.
        step_windows: windows in a step.
        window: tokens in a window.
        val_tokens: validation tokens scored at most.
        warmup_share: the warm-up's share of the steps.
    """

    model: ModelConfig
    steps: int
    batch_size: int
    step_windows: int
    window: int
    val_tokens: int
    warmup_share: float = 0.0

    @property
    def tokens(self) -> int:
        return self.steps * self.step_windows * self.window

    @property
    def parameters(self) -> int:
        return matrix_parameters(self.model)

    @property
    def flops(self) -> float:
        return self.tokens * training_flops_per_token(self.model, self.window)


@dataclass(frozen=True)
class Rung:
    """One small run; `multiple` is its learning rate in multiples of the configured one, carried over to its width."""

    size: int
    model: ModelConfig
    steps: int
    batch_size: int
    accumulation: int
    window: int
    multiple: float = 1.0

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.accumulation * self.window

    @property
    def parameters(self) -> int:
        return matrix_parameters(self.model)

    @property
    def flops_per_token(self) -> float:
        return training_flops_per_token(self.model, self.window)

    @property
    def name(self) -> str:
        """Unique within a ladder."""
        shape = f"width{self.model.hidden_size}_layers{self.model.num_hidden_layers}"
        return f"{shape}_steps{self.steps}_rate{self.multiple:.4g}"


@dataclass(frozen=True)
class Plan:
    """The runs of a ladder at the configured rate; the search replaces their `multiple`.

    Attributes:
        grid: the points of the fit, from the cheapest to the most expensive.
        val_tokens: validation tokens scored after each run.
        noise_windows: windows whose gradients are measured at the end of the last run.
    """

    grid: tuple[Rung, ...]
    search: Rung
    check: Rung
    val_tokens: int
    noise_windows: int

    @property
    def most_runs(self) -> list[Rung]:
        """All runs, if the search takes as long as it can."""
        return [*[self.search] * MOST_SEARCH_RUNS, *[self.check] * CHECK_RUNS, *self.grid]

    @property
    def flops(self) -> float:
        """Of everything: `most_runs`, the validation after each (a third as much per token), and the noise scale."""
        runs = ((rung.tokens + self.val_tokens / 3) * rung.flops_per_token for rung in self.most_runs)
        last = self.grid[-1]
        return sum(runs) + self.noise_windows * last.window * last.flops_per_token


def make_plan(target: Target, *, share: float = MAX_SHARE) -> Plan:
    """The largest ladder within `share` of the target's operations: the most balanced of those without models that are
    too narrow, with the widest range of widths that allows that.

    Raises:
        PipelineError: the run is too short or the model too narrow for a ladder.
    """
    plans: list[Plan] = []
    for width_range in _WIDTH_RANGES:
        plans += _possible_plans(target, share, width_range)
        fitting = [plan for plan in plans if _shortest(plan) >= FEWEST_STEPS and plan.flops <= share * target.flops]
        wide_enough = [plan for plan in fitting if _narrowest(plan) >= _NARROWEST]
        if wide_enough:
            return min(wide_enough, key=lambda plan: _imbalance(plan, target))
    if not plans:
        width = target.model.hidden_size
        raise PipelineError(f"model.hidden_size {width} is too narrow for a ladder; expected room for 4 smaller models")
    if not fitting:
        raise PipelineError(
            f"the configured run is too short for a ladder: {target.steps:,} steps, of which {share:.0%} would give "
            f"the shortest of the small runs {max(map(_shortest, plans))} steps (expected at least {FEWEST_STEPS}); "
            "train longer with --set training.max_steps=N or --set training.num_epochs=N"
        )
    return max(fitting, key=lambda plan: (_narrowest(plan), -_imbalance(plan, target)))


def _possible_plans(target: Target, share: float, width_range: float) -> list[Plan]:
    possible = [
        ladder_sizes(target.model, largest_share=1 / divisor, width_range=width_range) for divisor in _SIZE_DIVISORS
    ]
    return [_longest_plan(models, target, share) for models in possible if models]


def _shortest(plan: Plan) -> int:
    return min(rung.steps for rung in plan.grid)


def _narrowest(plan: Plan) -> int:
    return min(rung.model.hidden_size for rung in plan.grid)


def _imbalance(plan: Plan, target: Target) -> float:
    """How far the last run's tokens per parameter are from the target's, as a factor of at least 1."""
    last = plan.grid[-1]
    ratio = (last.tokens / last.parameters) / (target.tokens / target.parameters)
    return max(ratio, 1 / ratio)


def _longest_plan(models: Sequence[ModelConfig], target: Target, share: float) -> Plan:
    """The plan whose longest runs are as long as the budget allows, found by bisection."""
    low, high = 0.0, float(target.tokens)
    for _ in range(25):
        middle = (low + high) / 2
        if _plan(models, target, middle).flops <= share * target.flops:
            low = middle
        else:
            high = middle
    return _plan(models, target, low)


def _plan(models: Sequence[ModelConfig], target: Target, longest: float) -> Plan:
    """The plan whose longest runs have at most `longest` tokens."""

    def rung(size: int, power: int) -> Rung:
        return _rung(size, models[size], longest / _SHORTER**power, target)

    runs = [rung(size, power) for size, powers in enumerate(_LENGTHS) for power in powers]
    grid = tuple(sorted(runs, key=lambda run: run.parameters * run.tokens))
    val_tokens = max(target.window, min(target.val_tokens, int(_VALIDATION_SHARE * longest)))
    noise_windows = int(_NOISE_SHARE * longest / target.window)
    noise_windows = min(max(noise_windows, _FEWEST_NOISE_WINDOWS), _MOST_NOISE_WINDOWS)
    return Plan(grid, rung(0, SEARCH_LENGTH), rung(1, SEARCH_LENGTH), val_tokens, noise_windows)


def _rung(size: int, model: ModelConfig, tokens: float, target: Target) -> Rung:
    windows = max(1, round(target.step_windows * sqrt(min(1.0, tokens / target.tokens))))
    accumulation = ceil_div(windows, target.batch_size)
    batch_size = windows // accumulation
    steps = int(tokens / (batch_size * accumulation * target.window))
    return Rung(size, model, steps, batch_size, accumulation, target.window)
