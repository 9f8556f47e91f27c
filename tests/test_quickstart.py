"""The quickstart's output and records. For the full run, see test_end_to_end.py."""

import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

import main
import quickstart
from pipeline.configuration import CHECKOUT, load_config
from pipeline.demo import summary
from pipeline.demo.finished_stages import FinishedStage, FinishedStages
from pipeline.demo.screen import WIDTH, Screen, sparkline, without_styles
from pipeline.demo.sources import find_source
from pipeline.demo.stage_process import Route
from pipeline.demo.stages import Stage, Stages
from pipeline.demo.time_left import Pace, TimeLeft
from pipeline.demo.walkthrough import Walkthrough
from tests.expected_text import assert_expected
from utils.errors import PipelineError
from utils.files import write_json
from utils.terminal import styled


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class FakeStages:
    """Stages that record their runs, and fail or are interrupted on request."""

    folder: Path
    ran: list[str] = field(default_factory=list)
    trouble: dict[str, BaseException] = field(default_factory=dict)

    def all(self) -> list[Stage]:
        return [self.stage(name) for name in ("corpus", "cleanup", "tokenize")]

    def stage(self, name: str) -> Stage:
        def work() -> None:
            self.ran.append(name)
            if name in self.trouble:
                raise self.trouble.pop(name)
            (self.folder / name).touch()

        return Stage(name, "", work, lambda: f"made {name}", outputs=(self.folder / name,))

    def walk(self) -> list[str]:
        """A new process, which knows only the record on disk."""
        self.ran.clear()
        walk = Walkthrough(Screen(io.StringIO()), FinishedStages(self.folder / "progress.json"))
        walk.through(self.all(), {stage.name: stage.name for stage in self.all()})
        return self.ran


def shown(commands: list[summary.NextCommand]) -> dict[str, list[str]]:
    return {" ".join(command.arguments): list(command.arguments) for command in commands}


PRINTED = shown(summary.next_commands("configs/quickstart.json", is_tuned=True))


@pytest.mark.parametrize("arguments", PRINTED.values(), ids=PRINTED)
def test_every_printed_command_parses(arguments, monkeypatch, tmp_path):
    """Check the arguments with the stage's own parser, because --help would not detect a wrong one."""
    stage = main.find_stage(arguments[1])
    module = __import__(Path(stage.script).stem)
    assert module.parse_args(arguments[2:])


def test_commands_with_long_paths_still_parse():
    folder = "/home/somebody/" + "experiments/" * 8
    commands = summary.next_commands(f"{folder}quickstart.json", is_tuned=True)
    for command in commands:
        assert shlex.split(command.shown.replace("\\\n", "")) == ["python3", *command.arguments]


@pytest.mark.parametrize("tuned", [True, False])
def test_printed_commands_fit_a_terminal(tuned):
    text = summary.format_commands(summary.next_commands("configs/quickstart.json", is_tuned=tuned))
    assert max(map(len, text.splitlines())) <= 80


def test_interrupted_quickstart_continues(tmp_path):
    stages = FakeStages(tmp_path, trouble={"cleanup": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        stages.walk()
    assert stages.walk() == ["cleanup", "tokenize"]
    assert stages.walk() == []


def test_lost_output_is_rebuilt_with_later_stages(tmp_path):
    stages = FakeStages(tmp_path)
    stages.walk()
    (tmp_path / "cleanup").unlink()
    assert stages.walk() == ["cleanup", "tokenize"]


def test_a_damaged_record_means_nothing_is_done(tmp_path):
    stages = FakeStages(tmp_path)
    stages.walk()
    (tmp_path / "progress.json").write_text("{")
    assert stages.walk() == ["corpus", "cleanup", "tokenize"]


def test_an_unfinished_run_is_found_again(tmp_path):
    record = FinishedStages(tmp_path / "progress.json")
    old, new = tmp_path / "run_1", tmp_path / "run_2"
    old.mkdir()
    (old / "checkpoint_latest.pt").touch()
    record.begin_run("key", [old])
    assert record.new_run("key", [old]) is None
    new.mkdir()
    (new / "checkpoint_latest.pt").touch()
    assert FinishedStages(record.path).new_run("key", [old, new]) == new
    record.add("key", FinishedStage("train", 1.0, "done", str(new)))
    assert FinishedStages(record.path).new_run("key", [old, new]) is None


def test_a_failing_stage_shows_its_error_line(tmp_path):
    route = Route(CHECKOUT / "configs" / "quickstart.json", [], tmp_path / "quickstart.log")
    with pytest.raises(PipelineError, match=r"cleanup: .*nowhere.*quickstart\.log"):
        route.run("cleanup", ["--input", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")])
    assert "main.py cleanup --config" in route.log.read_text()


def test_a_read_only_folder_is_one_clear_line(tmp_path):
    (tmp_path / "taken").touch()  # a file where a folder is needed fails for root as well
    with pytest.raises(PipelineError, match="is not writable"):
        quickstart.open_log(tmp_path / "taken" / "quickstart")


def test_a_corpus_that_does_not_exist_is_named(tmp_path):
    paths = load_config(quickstart.DEFAULT_CONFIG).paths
    with pytest.raises(PipelineError, match="encyclopaedia is not a folder; expected encyclopedia, python"):
        find_source("encyclopaedia", paths)
    with pytest.raises(PipelineError, match="is empty"):
        find_source(str(tmp_path), paths)


def test_other_configurations_are_refused_before_anything_is_written():
    with pytest.raises(PipelineError, match="expected a folder called raw"):
        find_source("encyclopedia", load_config().paths)


def test_own_texts_come_without_questions(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    source = find_source(str(tmp_path), load_config(quickstart.DEFAULT_CONFIG).paths)
    assert (source.conversations, source.questions) == (None, None)
    assert source.write() == "1 file, 4 B"


def test_a_summary_without_questions_shows_no_earlier_score(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("text")
    folder = tmp_path / "quickstart"
    settings = [word for key in ("raw", "log") for word in ("--set", f"paths.{key}_dir={folder / key}")]
    args = quickstart.parse_args(["--corpus", str(texts), *settings])
    built = quickstart.build(args, Screen(io.StringIO()))
    (folder / "written.json").write_text("[]")
    (folder / "score.png").touch()
    assert "Pictures: " in quickstart.describe(built)
    assert "score.png" not in quickstart.describe(built)


def test_live_line_stays_within_the_terminal():
    terminal = Terminal()
    Screen(terminal).live(0.5, "train 1234567/1234567 " * 3, [5.0, 2.0, 1.0] * 9, 100.0)
    assert len(terminal.getvalue().strip("\r")) <= WIDTH


def test_nothing_is_redrawn_without_a_terminal():
    output = io.StringIO()
    Screen(output).live(0.5, "train", [], 1.0)
    assert output.getvalue() == ""


def test_samples_fit_one_line_with_two_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    Screen(terminal).sample("  step 100:", "The capital", "of\nthe " * 40)
    (line,) = terminal.getvalue().splitlines()
    assert len(re.sub(r"\x1b\[\d+m", "", line)) <= WIDTH
    assert len(set(re.findall(r"\x1b\[([1-9]\d*)m", line))) == 3


def test_colours_stay_out_of_the_summary_file(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert without_styles(styled("290 of 300", "bold", "cyan", stream=Terminal())) == "290 of 300"


def test_sparkline_falls_with_the_losses():
    assert sparkline([5.0, 3.0, 1.0]) == "█▅▁"
    assert sparkline([]) == ""


def test_time_left_follows_the_measured_steps():
    estimate = TimeLeft({"corpus": 10, "train": 80, "sft": 20})
    assert estimate.left("corpus", elapsed=1.0) is None
    estimate.finish("corpus", 20.0)
    assert estimate.left("train", elapsed=0.0) == pytest.approx(200.0)
    pace = Pace()
    pace.read("step 10/100: loss 5\n", now=30.0)
    assert pace.left(30.0) is None
    pace.read("step 20/100: loss 4\nnoise\n", now=40.0)
    assert pace.left(40.0) == pytest.approx(80.0)
    left = estimate.left("train", elapsed=40.0, stage_left=80.0)
    assert left == pytest.approx(80.0 + 20 * (20 + 120) / 90)


def test_summary_gives_counts_with_error_bars():
    count = {"right": 290, "total": 300, "interval_95": [0.94, 0.98]}
    text = summary.format_score({"known": count, "unknown": count | {"right": 31, "total": 50}})
    assert "290 of 300 held-out questions right (95% interval: 94% to 98%)" in text
    assert "31 of 50 unknown ones admitted" in text


def test_shown_questions_are_of_different_kinds(tmp_path):
    path = tmp_path / "questions.jsonl"
    asked = [{"question": f"q{n}", "answers": ["a"], "kind": f"k{n // 2}"} for n in range(40)]
    asked += [{"question": f"u{n}", "unknown": True} for n in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*asked, {"kind": "k1", "rivals": ["b"]}]))
    replies = [{"question": one["question"], "reply": "a", "right": True} for one in asked]
    chosen = summary.chosen_replies({"replies": replies}, summary.read_questions(path))
    assert [reply["question"] for reply in chosen] == [f"q{n}" for n in range(0, 16, 2)] + ["u0", "u1"]


def test_help_lists_the_choices():
    command = [sys.executable, "quickstart.py", "--help"]
    result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert "--corpus" in result.stdout
    assert "--again" in result.stdout


def test_the_pace_is_known_after_three_steps():
    pace = Pace()
    pace.read("step 1/10: loss 5\n", now=0.0)
    pace.read("step 3/10: loss 4\n", now=4.0)
    assert pace.left(4.0) is None
    pace.read("step 4/10: loss 3\n", now=6.0)
    assert [pace.left(now) for now in (6.0, 8.0, 100.0)] == [12.0, 10.0, 0.0]


def test_a_stage_that_takes_too_long_is_almost_done():
    estimate = TimeLeft({"corpus": 1, "train": 2, "sft": 1})
    estimate.finish("corpus", 10.0)
    assert estimate.left("train", elapsed=5.0) == 15 + 10
    assert estimate.left("train", elapsed=50.0) == 0 + 10


def test_stages_report_what_they_made(tmp_path):
    config = load_config(
        settings=[f"paths.{name}_dir={tmp_path / name}" for name in ("cleaned", "post_training", "log")]
    )
    record = FinishedStages(tmp_path / "progress.json")
    places = {"raw": None, "conversations": None, "questions": None}
    source = SimpleNamespace(name="a", fingerprint="b", **places)
    stages = Stages(config, source, None, record, None, {"train": "t", "sft": "s"})
    written = {
        config.paths.cleaned_dir / "cleaning_report.json": {"articles": 1_200, "read": 1_345, "characters": 2_300_000},
        tmp_path / "prepared" / "metadata.json": {"tokens": 1_234_567, "bytes": 4_000_000},
    }
    for path, totals in written.items():
        write_json(path, {"totals": totals})
    write_json(
        config.paths.post_training_dir / "metadata.json", {"examples": 900, "read": 1_000, "learned_tokens": 12_345}
    )
    for name, key in (("train", "t"), ("sft", "s")):
        (tmp_path / f"{name}_1").mkdir()
        record.add(key, FinishedStage(name, 1.0, "", run=str(tmp_path / f"{name}_1")))
        log = stages.log_of(tmp_path / f"{name}_1")
        log.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"step": 0, "val_loss": 5.5}, {"step": 10, "train_loss": 3.0}, {"step": 1_850, "val_loss": 1.234}]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source.write = iter(["3 articles", "4 articles"]).__next__
    corpus = stages.corpus()
    corpus.work()
    assert corpus.outcome() == "3 articles"
    corpus.work()
    assert corpus.outcome() == "4 articles"
    assert stages.cleanup().outcome() == "1,200 of 1,345 articles kept, 2.3M characters"
    assert stages.lima().outcome() == "900 of 1,000 conversations, 12.3K tokens to learn"
    assert stages.train().outcome() == stages.sft().outcome() == "1,850 steps, validation loss 5.50 → 1.23"


def test_the_live_line_follows_a_training_stage(tmp_path, monkeypatch):
    terminal = Terminal()
    walk = Walkthrough(Screen(terminal), FinishedStages(tmp_path / "progress.json"))
    now = iter(float(second) for second in range(0, 1000, 10))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    log = tmp_path / "log.jsonl"

    def work() -> None:
        events = [
            ("step 1/8: loss\n", 0, 5.0),
            ("step 4/8: loss\n", 4, 3.0),
            ("", 5, 2.5),
            ("step 8/8: loss\n", 8, 2.0),
        ]
        for output, step, loss in events:
            with log.open("a") as lines:
                sample = {"step": step, "event": "sample", "text": f"Once {step}"}
                lines.write(json.dumps({"step": step, "val_loss": loss}) + "\n" + json.dumps(sample) + "\n")
            walk.watch(output, log)

    trained = Stage("train", "", work, lambda: "8 steps", run=lambda: tmp_path)
    rest = [Stage(name, "", lambda: None, lambda name=name: f"made {name}") for name in ("corpus", "sft")]
    stages = [rest[0], trained, rest[1]]
    walk.through(stages, {stage.name: stage.name for stage in stages})
    Walkthrough(Screen(terminal), walk.record).through(stages, {stage.name: stage.name for stage in stages})
    assert_expected("walkthrough.txt", without_styles(terminal.getvalue()).replace("\r", "\n"))
