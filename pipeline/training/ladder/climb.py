"""Run a ladder: search the rate, train the points, fit the law, and predict the configured run.

    ladder = prepare(start, device)
    findings = climb(ladder)

The order is: the rate at the smallest size, then its check at the second size, then all points from the cheapest to the
most expensive. Everything is in a folder named after the settings and the data, so the same command continues there.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.configuration import section_to_dict
from pipeline.formats.checkpoint import only_training_run
from pipeline.training.dry_run import seconds_per_step
from pipeline.training.ladder.data_supply import effective_tokens
from pipeline.training.ladder.fit import Law, Point, fit_law
from pipeline.training.ladder.plan import MOST_SEARCH_RUNS, Plan, Rung, Target, make_plan
from pipeline.training.ladder.rates import best_multiple, search
from pipeline.training.ladder.rung_run import Result, RungRunner
from pipeline.training.pretraining import build_trainer
from pipeline.training.starting_point import Start
from pipeline.training.trainer import Trainer
from utils.errors import PipelineError
from utils.files import make_folder
from utils.terminal import format_count, say


@dataclass(frozen=True)
class Ladder:
    """A ladder that is ready to run.

    Attributes:
        seconds_per_token: of the configured run on this machine, estimated.
        unique: tokens of training text.
        ladder_seconds: the time for all runs, estimated.
    """

    start: Start
    device: torch.device
    target: Target
    plan: Plan
    folder: Path
    runner: RungRunner
    seconds_per_token: float
    unique: float
    ladder_seconds: float


@dataclass(frozen=True)
class Findings:
    """Everything measured.

    Attributes:
        search, check: losses by multiple of the configured rate, at the smallest and the second size.
        multiple: the best of the search; all points are trained with it.
        second_best: the best multiple at the second size.
        noise_tokens: the gradient noise scale at the end of the largest run, in tokens.
    """

    search: Mapping[float, float]
    check: Mapping[float, float]
    multiple: float
    second_best: float
    results: tuple[tuple[Rung, Result], ...]
    points: tuple[Point, ...]
    law: Law
    noise_tokens: float


def prepare(start: Start, device: torch.device, *, share: float) -> Ladder:
    """Open the data, measure the configured run's speed, and plan.

    Raises:
        PipelineError: the configured run is too short or too narrow for a ladder.
    """
    trainer = build_trainer(start, device, writes=False)
    target = target_of(start, trainer)
    plan = make_plan(target, share=share)
    seconds = seconds_per_step(trainer) / trainer.tokens_per_step
    unique = unique_tokens(start, trainer)
    fingerprint = trainer.run.description["data"]["fingerprint"]
    del trainer  # the configured model may fill the device
    folder = start.config.paths.checkpoint_dir / f"ladder_{settings_key(start, str(fingerprint), share)}"
    runner = RungRunner(start, folder, device, plan.val_tokens, target.warmup_share)
    return Ladder(
        start, device, target, plan, folder, runner, seconds, unique, ladder_seconds=_ladder_seconds(plan, runner)
    )


def target_of(start: Start, trainer: Trainer) -> Target:
    training = start.config.training
    steps = trainer.total_steps
    return Target(
        start.config.model,
        steps=steps,
        batch_size=training.batch_size,
        step_windows=training.batch_size * training.gradient_accumulation_steps,
        window=trainer.data.training.sequence_length,
        val_tokens=training.val_tokens,
        warmup_share=min(training.warmup_steps, steps // 2) / steps,
    )


def unique_tokens(start: Start, trainer: Trainer) -> float:
    """Tokens of training text; overlapping windows show the same text more than once in an epoch."""
    windows = len(trainer.data.training) * start.config.training.batch_size
    return float(windows * min(start.config.dataset.stride, trainer.data.training.sequence_length))


def settings_key(start: Start, data: str, share: float) -> str:
    """Names the folder, so that a ladder with other settings or data starts from scratch."""
    sections = {name: section_to_dict(getattr(start.config, name)) for name in ("model", "dataset", "training")}
    content = json.dumps([sections, data, share, start.test], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _ladder_seconds(plan: Plan, runner: RungRunner) -> float:
    """From a few passes at each size; runs that are finished count as well."""
    of_each_size = {rung.size: rung for rung in plan.grid}
    speed = {size: runner.seconds_per_token(rung) for size, rung in of_each_size.items()}
    return sum(speed[rung.size] * (rung.tokens + plan.val_tokens / 3) for rung in plan.most_runs)


def climb(ladder: Ladder) -> Findings:
    """Train what is not finished yet, and fit.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after saving; the next call continues.
        PipelineError: another ladder uses the folder, or runs diverged.
    """
    make_folder(ladder.folder)
    with only_training_run(ladder.folder):
        plan = ladder.plan
        searched = search(lambda multiple: _loss(ladder, plan.search, multiple), most_runs=MOST_SEARCH_RUNS)
        multiple = best_multiple(searched)
        if not math.isfinite(searched.get(multiple, 0.0)):
            raise PipelineError(
                f"every rate of the search diverged, down to {min(searched):g} times the configured one; lower "
                "training.learning_rate"
            )
        check = {factor * multiple: _loss(ladder, plan.check, factor * multiple) for factor in (0.5, 1.0, 2.0)}
        grid = [replace(rung, multiple=multiple) for rung in plan.grid]
        results = tuple((rung, _train(ladder, rung, is_last=rung is grid[-1])) for rung in grid)
    points = _points(ladder, results)
    noise = results[-1][1].noise_windows
    return Findings(
        searched,
        check,
        multiple,
        best_multiple(check),
        results,
        points,
        fit_law(points),
        noise_tokens=(math.nan if noise is None else noise) * ladder.target.window,
    )


def _loss(ladder: Ladder, rung: Rung, multiple: float) -> float:
    return _train(ladder, replace(rung, multiple=multiple)).loss


def _train(ladder: Ladder, rung: Rung, *, is_last: bool = False) -> Result:
    finished = ladder.runner.finished(rung)
    if finished:
        return finished
    model = rung.model
    say(
        f"\nwidth {model.hidden_size}, {model.num_hidden_layers} layers, {format_count(rung.tokens)} tokens, "
        f"rate × {rung.multiple:.3g}"
    )
    return ladder.runner.result(rung, noise_windows=ladder.plan.noise_windows if is_last else 0)


def _points(ladder: Ladder, results: tuple[tuple[Rung, Result], ...]) -> tuple[Point, ...]:
    for rung, result in results:
        if not math.isfinite(result.loss):
            raise PipelineError(
                f"the run {rung.name} diverged at the rate that was best at the smallest size; set a lower "
                "training.learning_rate, or training.max_grad_norm"
            )
    return tuple(
        Point(rung.parameters, effective_tokens(rung.tokens, ladder.unique), result.loss) for rung, result in results
    )
