"""Pretraining: token dataset → model checkpoints.

python3 train.py --test --device cpu --name first    # over the test dataset
python3 train.py --dry-run                           # time, memory, disk needed
python3 train.py --ladder --hours 10                 # predict the loss
python3 train.py --resume latest                     # where it stopped
torchrun --standalone --nproc_per_node 8 train.py    # or: train --nproc 8
"""

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.formats.run_names import check_new_run_name
from pipeline.training.tracker import require_tracker
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import UsageError
from utils.terminal import format_count, say

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)  # reject invalid values before torch loads
    if args.compare:
        from pipeline.training.curves import compare_runs

        print(compare_runs(args.compare, config.paths.log_dir))
        return EXIT_OK
    if not args.resume:  # a resumed run keeps its own
        require_tracker(config.training.tracker)
    if args.ladder:
        from pipeline.training.ladder.command import run_ladder

        run_ladder(args)
        return EXIT_OK

    from pipeline.training.dry_run import dry_run
    from pipeline.training.pretraining import set_up

    with ExitStack() as held:
        trainer = set_up(args, held)
        report = dry_run(trainer) if args.dry_run else train(trainer, args)
    if trainer.world.is_main:
        say(report)
    return EXIT_OK


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--test", action="store_true", help="one epoch over the test dataset")
    parser.add_argument("--name", help="a name for the run, shown in lists and in the logs")
    parser.add_argument(
        "--device", dest="training.device", choices=("cuda", "cpu", "mps"), help="overrides training.device"
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", metavar="CHECKPOINT", help="continue a run: a file, a run's folder, or latest")
    begin.add_argument("--init-from", metavar="CHECKPOINT", help="start a new run with these weights")
    parser.add_argument("--dry-run", action="store_true", help="estimate the cost of the run; writes nothing")
    parser.add_argument(
        "--ladder", nargs="?", type=float, const=10.0, metavar="PERCENT", help="predict the loss with small runs"
    )
    parser.add_argument("--hours", type=float, metavar="H", help="with --ladder: find the best run of H hours")
    parser.add_argument("--profile", action="store_true", help="trace some early steps to the run's folder")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="plot the losses of these runs in one chart")
    args = parser.parse_args(argv)
    if args.resume and args.name:
        raise UsageError("--name cannot be used with --resume: a resumed run keeps its name")
    check_new_run_name(args.name)
    _check_ladder(args)
    if args.dry_run and args.profile:
        raise UsageError("--profile cannot be used with --dry-run, which writes nothing")
    return args


def _check_ladder(args: argparse.Namespace) -> None:
    if args.hours is not None and args.ladder is None:
        raise UsageError("--hours is only used with --ladder")
    if args.hours is not None and not 0 < args.hours < float("inf"):
        raise UsageError(f"--hours {args.hours:g}: expected a number above 0")
    if args.ladder is None:
        return
    if not 0 < args.ladder <= 10:
        raise UsageError(f"--ladder {args.ladder:g}: expected a percentage above 0 and at most 10")
    others = ("resume", "init_from", "dry_run", "profile", "name")
    given = [f"--{name.replace('_', '-')}" for name in others if getattr(args, name)]
    if given:
        raise UsageError(f"{given[0]} cannot be used with --ladder, which trains small models from scratch")


def train(trainer: "Trainer", args: argparse.Namespace) -> str:
    from pipeline.training.dry_run import expected_time
    from pipeline.training.profiler import TRACE_NAME

    if args.test and not args.resume:
        estimate = expected_time(trainer)  # every process must measure, because they wait for each other
        if trainer.world.is_main:
            say(estimate)
    trainer.fit(trace=trainer.run.folder / TRACE_NAME if args.profile and trainer.world.is_main else None)
    return summary(trainer)


def summary(trainer: "Trainer") -> str:
    best = trainer.metrics.best
    done = f"done: {trainer.step} steps, {format_count(trainer.tokens_seen)} tokens"
    if best:
        done += f"; best validation loss {best['loss']:.4f} at step {trainer.metrics.best_step}"
    lines = [
        trainer.stopped_early,
        done,
        f"checkpoints: {trainer.run.folder}",
        f"metrics: {trainer.logger.path}",
        f"next: python3 main.py inference --checkpoint {trainer.run.folder}",
    ]
    return "\n".join(line for line in lines if line)


if __name__ == "__main__":
    run(main)
