"""Run the whole pipeline on your machine in minutes, from raw text to a model that answers. No GPU, no downloads.

    python3 main.py quickstart                      # or: make quickstart
    python3 main.py quickstart --corpus texts/      # your own .txt, .md, .jsonl, …
    python3 main.py quickstart --corpus python      # Python's docstrings
    python3 main.py quickstart --again              # train again, even if a finished model exists

The text is a tiny encyclopedia: articles generated from tables of facts. Every stage runs as you would run it yourself,
through main.py with configs/quickstart.json, and writes to quickstart/. After an interruption, run the command again to
continue.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.configuration import CHECKOUT, Config, load_config_from
from pipeline.demo import summary
from pipeline.demo.corpus import NUM_CHARACTERS
from pipeline.demo.finished_stages import FinishedStages, stage_key
from pipeline.demo.screen import Screen, without_styles, wrapped
from pipeline.demo.sources import Source, find_source
from pipeline.demo.stage_process import Route
from pipeline.demo.stages import Stage, Stages, read_json
from pipeline.demo.walkthrough import Walkthrough
from pipeline.formats.logged_metrics import validation_losses
from utils.cli import EXIT_OK, run, stage_parser
from utils.errors import PipelineError
from utils.files import write_text
from utils.terminal import ask, format_seconds, short_path, styled

DEFAULT_CONFIG = CHECKOUT / "configs" / "quickstart.json"


@dataclass(frozen=True)
class Quickstart:
    """The parts of a quickstart, assembled but not yet run."""

    config: Config
    config_path: Path
    source: Source
    stages: Stages
    all: list[Stage]
    record: FinishedStages
    route: Route
    walk: Walkthrough

    @property
    def is_finished(self) -> bool:
        return all(self.record.find(self.stages.keys[stage.name], stage.outputs) for stage in self.all)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    screen = Screen(sys.stdout)
    quickstart = build(args, screen)
    if args.again:
        quickstart.record.forget()
    is_new = not quickstart.is_finished
    if is_new:
        train(quickstart, screen)
    print(describe(quickstart))
    if not is_new:
        print("\nThis model is already trained; use --again to train it again.")
    if sys.stdin.isatty() and screen.is_terminal:
        talk(quickstart, offer=not is_new)
    return EXIT_OK


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.set_defaults(config=str(DEFAULT_CONFIG))
    parser.add_argument(
        "--corpus", default="encyclopedia", metavar="NAME", help="encyclopedia (default), python, or a folder of texts"
    )
    parser.add_argument("--again", action="store_true", help="train again, even if a finished model exists")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the encyclopedia")
    parser.add_argument("--characters", type=int, default=NUM_CHARACTERS, metavar="N", help="size of the encyclopedia")
    return parser.parse_args(argv)


def build(args: argparse.Namespace, screen: Screen) -> Quickstart:
    paths = load_config_from(args).paths
    source = find_source(args.corpus, paths, seed=args.seed, characters=args.characters)
    settings = [*source.settings, *args.settings]  # the last one wins
    args.settings = settings
    config = load_config_from(args)
    folder = paths.raw_dir.parent
    log = open_log(folder)
    record = FinishedStages(folder / "progress.json")
    walk = Walkthrough(screen, record)
    walk.prompt = next(iter(config.training.sample_prompts), "")
    route = Route(Path(args.config).absolute(), settings, log)
    stages = Stages(config, source, route, record, walk)
    every = stages.all()
    key = ""
    for stage in every:
        key = stages.keys[stage.name] = stage_key(key, stage.name, stage.depends)
    return Quickstart(config, Path(args.config).absolute(), source, stages, every, record, route, walk)


def open_log(folder: Path) -> Path:
    """Create the log, which also fails early if the folder is not writable."""
    path = folder / "quickstart.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(time.strftime("\n==== %Y-%m-%d %H:%M:%S\n"))
    except OSError as error:
        raise PipelineError(
            f"{folder} is not writable: {error.strerror or error}; copy the checkout to a folder you can write to"
        ) from None
    return path


def train(quickstart: Quickstart, screen: Screen) -> None:
    import matplotlib  # noqa: F401  needed at the end; if it is missing, fail now

    started = time.monotonic()
    folder = short_path(quickstart.stages.folder)
    screen.line(f"Everything goes to {folder}/, the stages' own output to quickstart.log.")
    try:
        quickstart.walk.through(quickstart.all, quickstart.stages.keys, received=quickstart.route.received)
    except KeyboardInterrupt:
        screen.line()
        screen.line("Stopped. Run the same command to continue.")
        raise
    draw_pictures(quickstart)
    screen.line(f"Finished in {format_seconds(time.monotonic() - started)}.", "bold")


def draw_pictures(quickstart: Quickstart) -> None:
    stages = quickstart.stages
    summary.draw_losses(stages.folder / "loss.png", stages.log_of(stages.run_of("train")))
    if quickstart.source.questions:
        last_step = validation_losses(stages.log_of(stages.run_of("sft")))[-1][0]
        summary.draw_scores(stages.folder / "score.png", read_json(stages.folder / "score.json"), last_step)


def describe(quickstart: Quickstart) -> str:
    """Print the summary and write it to summary.txt."""
    stages, source = quickstart.stages, quickstart.source
    parts = [styled("━━ Summary", "bold", "cyan")]
    if source.questions:
        score = read_json(stages.folder / "score.json")["tuned"]
        replies = summary.chosen_replies(score, summary.read_questions(source.questions))
        parts += [styled(summary.format_score(score), "bold"), summary.format_replies(replies)]
    parts += [summary.format_text(prompt, text) for prompt, text in read_json(stages.folder / "written.json")]
    if source.name == "encyclopedia":
        parts.append(wrapped(summary.ABOUT_ENCYCLOPEDIA, indent=0))
    pictures = ["loss.png", "score.png"] if source.questions else ["loss.png"]
    parts.append("Pictures: " + ", ".join(short_path(stages.folder / name) for name in pictures))
    commands = summary.next_commands(short_path(quickstart.config_path), is_tuned=bool(source.conversations))
    parts.append(summary.format_commands(commands))
    text = "\n\n".join(parts)
    write_text(stages.folder / "summary.txt", f"{without_styles(text)}\n")
    return f"\n{text}"


def talk(quickstart: Quickstart, *, offer: bool) -> None:
    """Open the chat, or a prompt for models trained on the user's own text, in this terminal."""
    if offer and ask("\nTalk to it? [Y/n] ").lower() in ("n", "no", "q"):
        return
    is_tuned = bool(quickstart.source.conversations)
    print(f"\n{'Ask it something' if is_tuned else 'Start a text'}; q to quit.")
    run_folder = quickstart.stages.run_of("sft" if is_tuned else "train")
    quickstart.route.attach("inference", ["--checkpoint", str(run_folder)])


if __name__ == "__main__":
    run(main)
