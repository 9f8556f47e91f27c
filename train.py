"""Pretraining: token dataset → model checkpoints.

python3 train.py --test --device cpu --name first     # one epoch over the test dataset
python3 train.py --resume latest                      # goes on exactly where the newest run stood
python3 train.py --init-from checkpoints/run_2026_01_31_12_00 --set dataset.source=fineweb
python3 train.py --dry-run                            # time, memory and disk of the whole run; writes nothing
python3 train.py --compare run_2026_01_31_12_00 run_2026_02_01_09_30
torchrun --standalone --nproc_per_node 8 train.py     # the same as: main.py train --nproc 8
"""

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.formats.run_names import check_run_name
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import UsageError
from utils.terminal import format_count

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    paths = load_config_from(args).paths  # wrong values end here, before torch loads
    if args.compare:
        from pipeline.training.curves import compare_runs

        print(compare_runs(args.compare, paths.log_dir))
        return EXIT_OK

    from pipeline.formats.checkpoint import only_training_run
    from pipeline.training.distributed import process_group
    from pipeline.training.dry_run import dry_run
    from pipeline.training.pretraining import build_trainer
    from pipeline.training.starting_point import StartingPoint
    from utils.devices import current_world, resolve_device

    with ExitStack() as held:
        holds = current_world().is_main and not args.dry_run
        start = StartingPoint(args, held if holds else None)
        config = start.config()
        device = resolve_device(config.training.device)
        world = held.enter_context(process_group(device))
        trainer = build_trainer(config, device, start, writes=not args.dry_run)
        if holds and not start.resumes:
            held.enter_context(only_training_run(trainer.run.folder))
        report = dry_run(trainer) if args.dry_run else train(trainer, args)
    if world.is_main:
        print(report)
    return EXIT_OK


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--test", action="store_true", help="one epoch over the test dataset (or training.max_steps)")
    parser.add_argument("--name", help="a name for the run, shown in lists and in the logs")
    parser.add_argument(
        "--device", dest="training.device", choices=("cuda", "cpu", "mps"), help="overrides training.device"
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", metavar="CHECKPOINT", help="go on with a run: a file, a run's folder, or: latest")
    begin.add_argument("--init-from", metavar="CHECKPOINT", help="a new run that begins with these weights")
    parser.add_argument("--dry-run", action="store_true", help="measure a few steps, tell what the run takes, and stop")
    parser.add_argument("--profile", action="store_true", help="write a trace of some early steps to the run's folder")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="draw the losses of these runs over one another")
    args = parser.parse_args(argv)
    if args.resume and args.name:
        raise UsageError("--name: a resumed run keeps its name; leave it out")
    check_run_name(args.name, origin="--name")
    if args.dry_run and args.profile:
        raise UsageError("--profile: a dry run writes nothing; leave one of the two out")
    return args


def train(trainer: "Trainer", args: argparse.Namespace) -> str:
    from pipeline.training.dry_run import expected_time
    from pipeline.training.profiler import TRACE_NAME

    if args.test and not args.resume:
        estimate = expected_time(trainer)  # every process measures: they wait for one another
        if trainer.world.is_main:
            print(estimate, flush=True)
    trainer.fit(trace=trainer.run.folder / TRACE_NAME if args.profile and trainer.world.is_main else None)
    return summary(trainer)


def summary(trainer: "Trainer") -> str:
    best = trainer.metrics.best
    scored = f"; best validation loss {best['loss']:.4f} at step {trainer.metrics.best_step}" if best else ""
    early = f"{trainer.stopped_early}\n" if trainer.stopped_early else ""
    return (
        f"{early}done: {trainer.step} steps, {format_count(trainer.tokens_seen)} tokens{scored}\n"
        f"checkpoints: {trainer.run.folder}\nmetrics: {trainer.logger.path}\n"
        f"next: python3 main.py inference --checkpoint {trainer.run.folder}"
    )


if __name__ == "__main__":
    run(main)
