"""The whole pipeline on your machine in minutes, from raw text to a model that writes and answers. No GPU or downloads.

    python3 main.py quickstart               # or: make quickstart

The text is what every Python has: its help topics and docstrings. Every stage is run as you would run it yourself,
through main.py with configs/quickstart.json; everything it makes lies in quickstart/.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.configuration import CHECKOUT, Config, load_config_from
from pipeline.demo.docstring_corpus import write_corpus
from pipeline.demo.docstring_questions import write_conversations
from utils.cli import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, run, stage_parser
from utils.errors import PipelineError
from utils.files import write_text
from utils.logging_utils import read_log
from utils.processes import run_process
from utils.terminal import format_bytes, format_count, format_seconds, format_table, styled

DEFAULT_CONFIG = CHECKOUT / "configs" / "quickstart.json"
RUN_NAME = "quickstart"
PROMPTS = ("Return a list of", "The module provides")
QUESTION = "What does matplotlib.axes.Axes.get_title do?"
NEXT_COMMANDS = """
Write with it:        python3 main.py inference --config {config}
Talk to it:           python3 main.py inference --config {config} --checkpoint latest
Train it longer:      python3 main.py train --config {config} --set training.max_steps=3000 --set training.num_epochs=4

The real thing, on a GPU, with the CodeLlama tokenizer (32,016 pieces) and the 25M model:
  FineWeb:            python3 main.py fineweb && python3 main.py train --set dataset.source=fineweb
  Wikipedia:          put the dump's *.jsonl into data/raw/enwiki_namespace_0/, then
                      python3 main.py cleanup && python3 main.py prepare && python3 main.py train
  a larger model:     python3 main.py train --config configs/110m.json
"""


@dataclass
class Quickstart:
    """One pass through the pipeline: the configuration, what to hand on to each stage, and what came out so far."""

    config: Config
    config_path: Path
    settings: Sequence[str]
    corpus_bytes: int
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    answer: str = ""

    @property
    def folder(self) -> Path:
        return self.config.paths.raw_dir.parent

    def stage(self, name: str, purpose: str, arguments: Sequence[str], outcome: Callable[[], str]) -> None:
        """Runs a stage through the router, in view."""
        self.part(name, purpose, lambda: self.route(name, arguments), outcome)

    def part(self, name: str, purpose: str, work: Callable[[], object], outcome: Callable[[], str]) -> None:
        print(f"\n{styled(f'━━ {name}', 'bold', 'cyan')}  {purpose}", flush=True)
        started = time.monotonic()
        work()
        duration, what = format_seconds(time.monotonic() - started), outcome()
        self.rows.append((name, duration, what))
        print(styled(f"✓ {what} in {duration}", "green"), flush=True)

    def route(self, name: str, arguments: Sequence[str], *, capture: bool = False) -> str:
        """The stage's output where it is captured.

        Raises:
            PipelineError: the stage failed; it has said why itself.
            KeyboardInterrupt: it was interrupted.
        """
        settings = [part for setting in self.settings for part in ("--set", setting)]
        command = [sys.executable, str(CHECKOUT / "main.py"), name, "--config", str(self.config_path)]
        code, _, output = run_process([*command, *settings, *arguments], capture=capture)
        if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            raise KeyboardInterrupt
        if code:
            shown = " ".join(["python3 main.py", name, "--config", _short(self.config_path), *arguments])
            raise PipelineError(f"{name} ended with exit code {code}; run it by itself: {shown} --debug")
        return output


def prepare_data(quickstart: Quickstart) -> None:
    paths, dataset = quickstart.config.paths, quickstart.config.dataset.directory(test=False)
    corpus = {}

    def make_corpus() -> None:
        corpus["summary"] = write_corpus(paths.raw_dir, max_bytes=quickstart.corpus_bytes)

    def corpus_outcome() -> str:
        summary = corpus["summary"]
        return f"{summary.articles:,} articles, {format_bytes(summary.bytes)}, from {summary.source_files:,} files"

    def cleaned_outcome() -> str:
        totals = _read_json(paths.cleaned_dir / "cleaning_report.json")["totals"]
        kept = f"{totals['articles']:,} of {totals['read']:,} articles kept"
        return f"{kept}, {format_count(totals['characters'])} characters"

    def dataset_outcome() -> str:
        metadata = _read_json(dataset / "metadata.json")
        tokens = metadata["totals"]["tokens"]
        return f"{format_count(tokens)} tokens, {metadata['totals']['bytes'] / tokens:.2f} bytes a token"

    pieces = quickstart.config.model.vocab_size
    quickstart.part(
        "corpus", "Python's help topics and docstrings, written as raw articles", make_corpus, corpus_outcome
    )
    quickstart.stage("cleanup", "raw articles → cleaned text, one article a line", [], cleaned_outcome)
    files = [str(path) for path in sorted(paths.cleaned_dir.glob("cleaned_*.txt"))]
    training = ["--train", *files, "--vocab-size", str(pieces), "--output", str(paths.tokenizer_dir)]
    quickstart.stage("tokenize", "learn the pieces that text is cut into", training, lambda: f"{pieces:,} pieces")
    quickstart.stage("prepare", "cleaned text → token dataset", ["--restart"], dataset_outcome)


def train_model(quickstart: Quickstart) -> None:
    config = quickstart.config
    picture = quickstart.folder / "loss.png"

    def outcome() -> str:
        curves = loss_curves(newest_run(config.paths.log_dir))
        save_loss_picture(picture, curves)
        first, last = curves["train"][0][1], curves["validation"][-1][1]
        return f"{curves['train'][-1][0]:,} steps, loss {first:.2f} → {last:.2f} on text it has not seen"

    purpose = "the model reads the text and learns to guess the next piece; most of the time goes here"
    quickstart.stage("train", purpose, ["--name", RUN_NAME], outcome)


def write_samples(quickstart: Quickstart) -> None:
    def work() -> None:
        for prompt in PROMPTS:
            arguments = ["--checkpoint", "latest", "--prompt", prompt, "--seed", "1"]
            quickstart.samples.append(quickstart.route("inference", arguments, capture=True).strip())
            print(f"\n{styled(prompt, 'bold')} {quickstart.samples[-1]}\n", flush=True)

    quickstart.part("inference", "the model continues a text", work, lambda: f"{len(PROMPTS)} samples")


def tune_model(quickstart: Quickstart) -> None:
    paths = quickstart.config.paths
    conversations = paths.post_training_dir / "conversations.jsonl"

    def prepared() -> str:
        metadata = _read_json(paths.post_training_dir / "metadata.json")
        kept = f"{metadata['examples']:,} of {metadata['read']:,} conversations"
        return f"{kept}, {format_count(metadata['learned_tokens'])} tokens to learn"

    def tuned() -> str:
        losses = [loss for _, loss in loss_curves(newest_run(paths.log_dir))["validation"]]
        return f"validation loss {losses[0]:.2f} before, {min(losses):.2f} after"

    def ask() -> None:
        quickstart.answer = quickstart.route(
            "inference", ["--checkpoint", "latest", "--prompt", QUESTION, "--temperature", "0"], capture=True
        ).strip()
        print(f"\n{styled(QUESTION, 'bold')} {quickstart.answer}\n", flush=True)

    write_conversations(paths.raw_dir, conversations)
    purpose = "questions and answers out of the docstrings → token ids and what is to be learned"
    quickstart.stage("lima", purpose, ["--input", str(conversations)], prepared)
    quickstart.stage("sft", "the model learns to answer", ["--checkpoint", "latest", "--name", RUN_NAME], tuned)
    quickstart.part("chat", "the tuned model answers", ask, lambda: "one answer")


def benchmark_model(quickstart: Quickstart) -> None:
    folder = quickstart.config.paths.benchmark_dir

    def outcome() -> str:
        newest = max(folder.glob("benchmark_*.json"), key=lambda path: path.stat().st_mtime)
        (model,) = _read_json(newest)["models"].values()
        wikitext = model["figures"]["wikitext"]
        bits, top = wikitext["bits_per_byte"]["value"], wikitext["next_token_top1"]["value"]
        scores = f"{bits:.2f} bits per byte on other text, {top:.0%} of next tokens guessed"
        return f"{scores}; {_short(newest.with_suffix('.html'))}"

    arguments = ["--checkpoint", "latest", "--offline-samples", "--full"]
    quickstart.stage("benchmark", "scores on the project's own small sample", arguments, outcome)


def newest_run(log_dir: Path) -> Path:
    """The newest raw metrics file."""
    logs = sorted((log_dir / "raw_metrics").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise PipelineError(f"{log_dir}/raw_metrics is empty, so training has logged nothing; run it again")
    return logs[-1]


def loss_curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, loss) of training and of validation."""
    lines = read_log(log)
    names = {"train": "train_loss", "validation": "val_loss"}
    return {name: [(line["step"], line[key]) for line in lines if line.get(key)] for name, key in names.items()}


def save_loss_picture(path: Path, curves: dict[str, list[tuple[float, float]]]) -> None:
    from utils.plots import save_curves

    save_curves(path, curves, title="Loss of the quickstart model", x_label="step", y_label="loss (nats a token)")


def report(quickstart: Quickstart, started: float) -> None:
    total = time.monotonic() - started
    table = format_table([("stage", "time", "what came out"), *quickstart.rows], right=[1])
    text = f"{table}\n\nAll in {format_seconds(total)}. The loss curve: {_short(quickstart.folder / 'loss.png')}"
    written = "\n\n".join(f"{prompt} {sample}" for prompt, sample in zip(PROMPTS, quickstart.samples, strict=True))
    commands = NEXT_COMMANDS.format(config=_short(quickstart.config_path))
    written += f"\n\nUser: {QUESTION}\nAssistant: {quickstart.answer}"
    write_text(quickstart.folder / "summary.txt", f"{text}\n\n{written}\n{commands}")
    print(f"\n{styled('━━ Summary', 'bold', 'cyan')}\n\n{text}\n{commands}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.set_defaults(config=str(DEFAULT_CONFIG))
    parser.add_argument("--corpus-bytes", type=int, default=14_000_000, metavar="N", help="raw text at most")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    import matplotlib  # noqa: F401  needed at the end, for the loss curve: better missed now than then

    started = time.monotonic()
    quickstart = Quickstart(config, Path(args.config).absolute(), args.settings, args.corpus_bytes)
    print(f"Everything goes to {_short(quickstart.folder)}/; it takes about five minutes on two cores.")
    if quickstart.folder.exists():
        print("What an earlier quickstart left there is made anew; its checkpoints and logs stay.")
    prepare_data(quickstart)
    train_model(quickstart)
    write_samples(quickstart)
    benchmark_model(quickstart)
    tune_model(quickstart)
    report(quickstart, started)
    return EXIT_OK


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _short(path: Path) -> str:
    """Relative to the working directory where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    run(main)
