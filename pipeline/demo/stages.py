"""The stages of the quickstart: what each runs, what its result depends on, and its outcome.

    for stage in Stages(config, source, route, watch).all():
        stage.work()
        print(stage.outcome())

Stages are started like a user would, through main.py, and their results are read from the files that they write.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.configuration import Config
from pipeline.demo.finished_stages import FinishedStages
from pipeline.demo.sources import Source
from pipeline.demo.stage_process import Route
from pipeline.formats.logged_metrics import validation_losses
from pipeline.formats.run_folders import step_checkpoints
from utils.errors import PipelineError
from utils.raw_log import raw_metrics_path, read_log
from utils.terminal import counted, format_count

RUN_NAME = "quickstart"
SCORED_EVERY_STEPS = 20  # in tuning: save a checkpoint for the exam
STORY_REQUEST = "Tell me a story about a dog."
# Relative cost of the stages, in seconds on one machine; the speed of this machine is measured while they run.
COSTS = {
    "corpus": 1, "cleanup": 1, "tokenize": 1, "prepare": 1, "lima": 2, "train": 250, "sft": 45, "benchmark": 12,
    "inference": 5,
}  # fmt: skip
Value = dict[str, Any]


class Watcher(Protocol):
    """Watches a training stage while it runs."""

    def watch(self, output: str, log: Path | None) -> None: ...


@dataclass(frozen=True)
class Stage:
    """`depends`: what the result depends on, besides earlier stages; `run`: the run's folder, if the stage trains."""

    name: str
    purpose: str
    work: Callable[[], None]
    outcome: Callable[[], str]
    depends: object = None
    outputs: tuple[Path, ...] = ()
    run: Callable[[], Path] | None = None


@dataclass
class Stages:
    """Builds the stages; `keys` are their checksums, known before the first one runs."""

    config: Config
    source: Source
    route: Route
    record: FinishedStages
    watcher: Watcher
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.config.paths.raw_dir.parent

    @property
    def dataset(self) -> Path:
        return self.config.dataset.directory(test=False)

    def all(self) -> list[Stage]:
        stages = [self.corpus(), self.cleanup(), self.tokenize(), self.prepare()]
        if self.source.conversations:
            stages += [self.lima(), self.train(), self.sft()]
        else:
            stages += [self.train()]
        if self.source.questions:
            stages.append(self.benchmark())
        return [*stages, self.inference()]

    # ---- data

    def corpus(self) -> Stage:
        made: list[str] = []
        return Stage(
            "corpus",
            "raw articles",
            work=lambda: made.append(self.source.write()),
            outcome=lambda: made[-1],
            depends=[self.source.name, self.source.fingerprint],
            outputs=tuple(filter(None, (self.source.raw, self.source.conversations, self.source.questions))),
        )

    def cleanup(self) -> Stage:
        cleaned = self.config.paths.cleaned_dir

        def work() -> None:
            for path in (*cleaned.glob("cleaned_*.txt"), *cleaned.glob("*.json")):
                path.unlink()  # from another corpus
            self.route.run("cleanup", ["--input", str(self.source.raw)])

        def outcome() -> str:
            totals = read_json(cleaned / "cleaning_report.json")["totals"]
            kept = f"{totals['articles']:,} of {totals['read']:,} articles kept"
            return f"{kept}, {format_count(totals['characters'])} characters"

        return Stage(
            "cleanup",
            "cleaned text, one article per line",
            work,
            outcome,
            depends=asdict(self.config.cleaning),
            outputs=(cleaned / "cleaning_report.json",),
        )

    def tokenize(self) -> Stage:
        folder, pieces = self.config.paths.tokenizer_dir, self.config.model.vocab_size

        def work() -> None:
            files = [str(path) for path in sorted(self.config.paths.cleaned_dir.glob("cleaned_*.txt"))]
            self.route.run("tokenize", ["--train", *files, "--vocab-size", str(pieces), "--output", str(folder)])

        return Stage(
            "tokenize",
            "the vocabulary of text pieces",
            work,
            outcome=lambda: f"{pieces:,} pieces",
            depends=pieces,
            outputs=(folder / "tokenizer.json",),
        )

    def prepare(self) -> Stage:
        def outcome() -> str:
            totals = read_json(self.dataset / "metadata.json")["totals"]
            return f"{format_count(totals['tokens'])} tokens, {totals['bytes'] / totals['tokens']:.2f} bytes per token"

        return Stage(
            "prepare",
            "token dataset",
            work=lambda: self.route.run("prepare", ["--restart"]),
            outcome=outcome,
            depends=asdict(self.config.dataset),
            outputs=(self.dataset / "metadata.json",),
        )

    def lima(self) -> Stage:
        folder = self.config.paths.post_training_dir

        def outcome() -> str:
            metadata = read_json(folder / "metadata.json")
            kept = f"{metadata['examples']:,} of {metadata['read']:,} conversations"
            return f"{kept}, {format_count(metadata['learned_tokens'])} tokens to learn"

        return Stage(
            "lima",
            "conversations as tokens",
            work=lambda: self.route.run("lima", ["--input", str(self.source.conversations)]),
            outcome=outcome,
            depends=[self.config.sft.max_length, self.config.sft.deduplicate],
            outputs=(folder / "metadata.json",),
        )

    # ---- training

    def train(self) -> Stage:
        def outcome() -> str:
            losses = validation_losses(self.log_of(self.run_of("train")))
            return f"{losses[-1][0]:,} steps, validation loss {losses[0][1]:.2f} → {losses[-1][1]:.2f}"

        return Stage(
            "train",
            "a model learns to predict the next piece",
            work=lambda: self.work_on_run("train", "run_*", []),
            outcome=outcome,
            depends=[asdict(self.config.model), asdict(self.config.training)],
            run=lambda: self.run_of("train"),
        )

    def sft(self) -> Stage:
        # Compiling does not pay off for so few steps.
        settings = ["training.compile=off", f"training.checkpoint_every_steps={SCORED_EVERY_STEPS}"]

        def work() -> None:
            self.work_on_run("sft", "sft_*", ["--checkpoint", str(self.run_of("train"))], settings)

        def outcome() -> str:
            losses = validation_losses(self.log_of(self.run_of("sft")))
            return f"{losses[-1][0]:,} steps, validation loss {losses[0][1]:.2f} → {losses[-1][1]:.2f}"

        return Stage(
            "sft",
            "the model learns to answer",
            work,
            outcome,
            depends=asdict(self.config.sft),
            run=lambda: self.run_of("sft"),
        )

    def work_on_run(self, name: str, pattern: str, arguments: list[str], settings: Sequence[str] = ()) -> None:
        """Start a run, or continue an interrupted one."""
        key, checkpoints = self.keys[name], self.config.paths.checkpoint_dir
        before = set(checkpoints.glob(pattern))
        unfinished = self.record.new_run(key, before)
        if unfinished:
            arguments = ["--resume", str(unfinished)]
        else:
            self.record.begin_run(key, before)
            arguments = [*arguments, "--name", RUN_NAME]

        def watch(output: str) -> None:
            folder = self.record.new_run(key, checkpoints.glob(pattern))
            self.watcher.watch(output, self.log_of(folder) if folder else None)

        self.route.run(name, arguments, settings=settings, on_output=watch)
        watch("")

    def run_of(self, name: str) -> Path:
        """The run folder of a training stage."""
        pattern = {"train": "run_*", "sft": "sft_*"}[name]
        done = self.record.find(self.keys[name], ())
        if done:
            return Path(done.run)
        checkpoints = self.config.paths.checkpoint_dir
        folder = self.record.new_run(self.keys[name], checkpoints.glob(pattern))
        if folder is None:
            raise PipelineError(f"{name} left no checkpoint in {checkpoints}; run make quickstart again")
        return folder

    def log_of(self, run: Path) -> Path:
        return raw_metrics_path(self.config.paths.log_dir, f"{run.name}_{RUN_NAME}")

    # ---- the trained model

    def benchmark(self) -> Stage:
        path = self.folder / "score.json"

        def work() -> None:
            run = self.run_of("sft")
            named = [f"{step}={path}" for step, path in step_checkpoints(run)] + [f"tuned={run}"]
            checkpoints = [part for checkpoint in named for part in ("--checkpoint", checkpoint)]
            self.route.run("benchmark", [*checkpoints, "--questions", str(self.source.questions)])
            newest = max(
                self.config.paths.benchmark_dir.glob("questions_*.json"), key=lambda found: found.stat().st_mtime
            )
            path.write_bytes(newest.read_bytes())

        def outcome() -> str:
            score = read_json(path)["tuned"]
            known, unknown = score["known"], score["unknown"]
            right = f"{known['right']} of {known['total']} held-out questions right"
            return f"{right}, {unknown['right']} of {unknown['total']} unknown ones admitted"

        return Stage("benchmark", "known facts in new wordings, and unknown names", work, outcome, outputs=(path,))

    def inference(self) -> Stage:
        path = self.folder / "written.json"

        def work() -> None:
            prompts = self.prompts()
            run = str(self.run_of("sft" if self.source.conversations else "train"))
            options = ["--checkpoint", run, "--seed", "1", "--max-length", "160"]
            texts = [self.route.answer("inference", [*options, "--prompt", prompt]) for prompt in prompts]
            path.write_text(json.dumps(list(zip(prompts, texts, strict=True)), ensure_ascii=False), encoding="utf-8")

        return Stage(
            "inference",
            "the model writes",
            work,
            outcome=lambda: counted(len(read_json(path)), "text"),
            depends=self.prompts(),
            outputs=(path,),
        )

    def prompts(self) -> list[str]:
        if self.source.questions:
            return [STORY_REQUEST]
        if self.source.conversations:
            return list(self.config.sft.sample_prompts)
        return list(self.config.training.sample_prompts)


def samples(log: Path) -> list[tuple[int, str]]:
    """(step, text) for the samples generated in training."""
    return [(line["step"], line["text"]) for line in read_log(log) if line.get("event") == "sample"]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
