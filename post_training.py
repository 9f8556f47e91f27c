"""Supervised fine-tuning: teach a base model to answer.

    python3 post_training.py --checkpoint latest --device cpu
    python3 post_training.py --checkpoint RUN --epochs 2 --lr 3e-5 --batch-size 4
    python3 post_training.py --resume checkpoints/sft_lima_2026_02_01_09_30

The conversations come from `lima_tokenizer.py`, the loop from `pipeline.training.trainer`.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.configuration import load_config_from
from pipeline.formats.run_names import check_new_run_name
from pipeline.training.tracker import require_tracker
from utils.cli import run, stage_parser
from utils.errors import PipelineError, UsageError
from utils.terminal import say

if TYPE_CHECKING:
    from pipeline.configuration import Config
    from pipeline.tuning.answer_gain import AnswerGain, Counts
    from pipeline.tuning.finetuning import TuningStart


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)  # reject invalid values before torch loads
    if not args.resume:  # a resumed run keeps its own
        require_tracker(config.training.tracker)

    from pipeline.formats.checkpoint import only_training_run
    from pipeline.tuning.finetuning import build_trainer, choose_start, print_outcome, write_record
    from utils.devices import resolve_device

    with ExitStack() as held:
        start = choose_start(args, held)
        answers = _answer_gain(start, args.questions)
        trainer = build_trainer(start, resolve_device(start.config.training.device), answers)
        held.enter_context(trainer.logger)
        del start  # the checkpoint's content
        if not args.resume:
            held.enter_context(only_training_run(trainer.run.folder))
        write_record(trainer, sys.argv[1:] if argv is None else argv)
        print_outcome(trainer, trainer.fit(validate_first=True), answers)
    return 0


def _answer_gain(start: "TuningStart", file: Path | None) -> "AnswerGain | None":
    """What counts correct answers to the questions in `file`, or in a resumed run's own; None without questions."""
    from pipeline.tuning.answer_gain import RECORD_KEY, AnswerGain, recorded_questions

    record = start.content.get(RECORD_KEY) if start.resumes else None
    if record:
        try:
            file = recorded_questions(record)
        except PipelineError as error:
            say(f"the correct answers after tuning are not counted: {error}")
    return AnswerGain(file, _counter(file, start.config), record) if file else None


def _counter(file: Path, config: "Config") -> "Callable[[Path], Counts]":
    """A function that counts the correct answers of a checkpoint, exactly as ``benchmark.py --questions`` does."""
    from pipeline.evaluation.questions import ask, count_values, read_questions, score
    from pipeline.generation.loading import load_for_inference
    from pipeline.training.cpu_settings import plain_float32_products

    questions = read_questions(file)

    def count(checkpoint: Path) -> "Counts":
        with plain_float32_products():
            loaded = load_for_inference(str(checkpoint), config, device=config.training.device)
            return count_values(score(questions, ask(loaded.model, loaded.tokenizer, questions.asked)))

    return count


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--checkpoint", metavar="PATH", help="the base model: a file, a run's folder, or latest")
    parser.add_argument("--resume", metavar="PATH", help="continue a fine-tuning run: a file, its folder, or latest")
    add_tuning_options(parser)
    parser.add_argument("--name", help="a name for the run, shown in lists and in the logs")
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="count correct answers before and after tuning",
    )
    args = parser.parse_args(argv)
    if bool(args.checkpoint) == bool(args.resume):
        raise UsageError("either --checkpoint PATH (to tune a model) or --resume RUN (to continue a run) is required")
    if args.resume and args.name:
        raise UsageError("--name cannot be used with --resume: a resumed run keeps its name")
    if args.resume and args.questions:
        raise UsageError("--questions cannot be used with --resume: a resumed run keeps its questions")
    check_new_run_name(args.name)
    return args


def add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that set a configuration key."""
    parser.add_argument(
        "--epochs",
        dest="sft.num_epochs",
        metavar="N",
        type=int,
        help="passes over the conversations (sft.num_epochs)",
    )
    parser.add_argument(
        "--lr",
        dest="sft.learning_rate",
        metavar="RATE",
        type=float,
        help="learning rate after the warm-up (sft.learning_rate)",
    )
    parser.add_argument(
        "--batch-size",
        dest="sft.batch_size",
        metavar="N",
        type=int,
        help="conversations in one forward pass (sft.batch_size)",
    )
    parser.add_argument(
        "--packing",
        dest="sft.packing",
        action="store_true",
        default=None,
        help="pack several conversations into a row",
    )
    parser.add_argument(
        "--tokenizer", dest="paths.tokenizer_dir", metavar="DIR", help="folder containing the checkpoint's tokenizer"
    )
    parser.add_argument(
        "--device", dest="training.device", choices=("cuda", "cpu", "mps"), help="overrides training.device"
    )


if __name__ == "__main__":
    run(main)
