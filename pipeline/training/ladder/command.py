"""``train.py --ladder``: predict the configured run from small ones, and print the summary."""

from argparse import Namespace

from pipeline.training.ladder.climb import climb, prepare
from pipeline.training.ladder.report import Report, plan_text
from pipeline.training.starting_point import choose_start
from utils.devices import current_world, resolve_device
from utils.errors import PipelineError
from utils.terminal import say


def run_ladder(args: Namespace) -> None:
    """Plan, train, fit, print.

    Raises:
        PipelineError: the configured run is too short, or several processes were started.
    """
    if current_world().size > 1:
        raise PipelineError("--ladder trains small models in one process; start it without --nproc and torchrun")
    start = choose_start(args)
    ladder = prepare(start, resolve_device(start.config.training.device), share=args.ladder / 100)
    say(plan_text(ladder))
    report = Report.of(ladder, climb(ladder), hours=args.hours)
    notes = report.write()
    say("", report.text(), *notes)
