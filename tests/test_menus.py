"""The menus of Inference.py: what is shown, which answers are taken, and what Enter chooses."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.console import benchmark_menu, load_models, menus
from pipeline.console.benchmark_menu import BenchmarkStage
from pipeline.console.menus import Quit
from pipeline.formats.run_folders import Run, list_runs
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError
from utils.processes import Finished


@pytest.fixture
def answer(monkeypatch):
    """Set the answers to the coming questions; returns the list that fills with the questions."""

    def set_answers(*answers: str) -> list[str]:
        left, asked = list(answers), []

        def ask(question: str, **options: object) -> str:
            asked.append(question)
            return left.pop(0)

        monkeypatch.setattr(menus, "ask", ask)
        return asked

    return set_answers


@pytest.mark.parametrize(
    ("given", "chosen"), [(["1"], 1), (["3"], 3), ([""], 2), (["0", "4", "-1", "b"], 2), (["1.5", "a"], 1)]
)
def test_a_choice_is_a_number_or_a_name(answer, given, chosen, capsys):
    asked = answer(*given)
    assert menus.choose("Run", 3, default=2, names=["a", "b", "c"]) == chosen
    assert asked[0] == "Run (1-3, q to quit) [2]: "
    assert capsys.readouterr().out.count("is not a number from 1 to 3") == len(given) - 1


def test_without_a_default_enter_asks_again(answer):
    asked = answer("", "2")
    assert menus.choose("Run", 2) == 2
    assert asked == ["Run (1-2, q to quit): "] * 2


@pytest.mark.parametrize("word", ["q", "Quit", "EXIT"])
def test_the_word_to_leave_works_everywhere(answer, word):
    answer(word)
    with pytest.raises(Quit):
        menus.choose("Run", 3)


@pytest.mark.parametrize(("given", "leaves"), [("y", False), ("Yes", False), ("", True), ("n", True), ("ok", True)])
def test_only_yes_confirms(answer, given, leaves):
    answer(given)
    if leaves:
        with pytest.raises(Quit):
            menus.confirm("Load them anyway?")
    else:
        menus.confirm("Load them anyway?")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two runs: the newer one has a best checkpoint that is not its newest."""
    for place, names in {"run_a": ["latest"], "run_b": ["step_5", "best", "latest"]}.items():
        for name in names:
            path = tmp_path / place / f"checkpoint_{name}.pt"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x" * 1024)
            os.utime(path, (1e9 + len(place + name) + 100 * (place == "run_b"),) * 2)
    return tmp_path


def test_runs_are_listed_and_the_newest_is_marked(folder, answer, capsys):
    answer("")
    assert menus.choose_run(folder).directory.name == "run_b"
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Training runs"
    assert re.fullmatch(r"  1\. run_b  3 checkpoints  2001-09-09 \d\d:\d\d  \(unreadable\)  ← newest", lines[2])
    assert re.fullmatch(r"  2\. run_a  1 checkpoint  2001-09-09 \d\d:\d\d  \(unreadable\)", lines[3])
    answer("run_a")
    assert menus.choose_run(folder).directory.name == "run_a"


def test_enter_takes_the_best_checkpoint(folder, answer, capsys):
    (run, other) = list_runs(folder)
    answer("")
    assert menus.choose_checkpoint(run).stem == "checkpoint_best"
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("← best validation loss") for line in lines[2:5]] == [
        path.stem == "checkpoint_best" for path in run.checkpoints
    ]
    assert sum(line.endswith("← most recent") for line in lines) == 1
    assert all("  1.0 KB  " in line for line in lines[2:])
    answer("")
    assert menus.choose_checkpoint(other).stem == "checkpoint_latest"


def test_enter_takes_all_of_one_run_or_the_best_of_each(folder, answer):
    runs = list_runs(folder)
    asked = answer("")
    assert menus.choose_checkpoints(runs[:1]) == list(runs[0].checkpoints)
    assert asked == ["Checkpoints (1-3, such as 1,3, or all; q to quit) [all]: "]
    answer("")
    assert [path.parent.name + "/" + path.stem for path in menus.choose_checkpoints(runs)] == [
        "run_b/checkpoint_best",
        "run_a/checkpoint_latest",
    ]
    answer("5", "run_a/latest, run_b/step_5")
    assert [path.stem for path in menus.choose_checkpoints(runs)] == ["checkpoint_latest", "checkpoint_step_5"]


def test_a_single_run_is_not_asked_for(folder, answer):
    asked = answer("2")
    assert [run.directory.name for run in menus.choose_runs(folder / "run_a")] == ["run_a"]
    assert menus.choose_run(folder / "run_a").directory.name == "run_a"
    assert not asked
    assert [run.directory.name for run in menus.choose_runs(folder)] == ["run_a"]
    assert asked[0].endswith("[1]: ")


def test_the_line_of_a_flat_folder_says_so(folder):
    (run,) = list_runs(folder / "run_a")
    assert isinstance(run, Run)
    assert menus._run_line(1, run, folder / "run_a", is_newest=False).startswith("1. (directly in the folder)  1 ")


def test_own_parameters_are_asked_one_by_one(answer, capsys):
    default = GenerationSettings(max_length=10, temperature=0.5, top_k=3, seed=None)
    asked = answer("2", "20", "hot", "0.7", "", "2", "0.5", "", "", "none")
    settings = menus.choose_settings(default)
    assert (settings.max_length, settings.temperature, settings.top_k, settings.top_p) == (20, 0.7, 3, 0.5)
    assert settings.seed is None
    assert asked[1] == "  Maximum length in new tokens (maximum number of new tokens) [10]: "
    assert asked[-1].endswith(" []: ")
    said = capsys.readouterr().out
    assert "defaults (max_length 10, temperature 0.5, top_k 3, top_p 0.95)" in said
    assert "temperature is 'hot'; expected a number" in said
    answer("")
    assert menus.choose_settings(default) is default


def test_settings_are_changed_by_assignments():
    changed = menus.change_settings(GenerationSettings(seed=3), "top-k = 5, temperature=0  seed=none")
    assert (changed.top_k, changed.temperature, changed.seed) == (5, 0.0, None)
    for text, said in (("top_k", "has no value"), ("top_k=", "has no value"), ("top_k=1.5", "expected an integer")):
        with pytest.raises(PipelineError, match=said):
            menus.change_settings(GenerationSettings(), text)


@pytest.mark.parametrize(("data", "offline"), [("1", []), ("2", ["--offline-samples"])])
def test_the_menu_builds_the_benchmarks_command(monkeypatch, answer, data, offline):
    commands = []
    monkeypatch.setattr(benchmark_menu, "run_process", lambda command: commands.append(command) or Finished(3, [], ""))
    answer("2", data)
    stage = BenchmarkStage({"quick": "few", "standard": "more"}, ["--config", "c.json"])
    assert stage.run(["a.pt", "b.pt"]) == 3
    expected = [
        "benchmark",
        "--standard",
        "--config",
        "c.json",
        *offline,
        "--checkpoint",
        "a.pt",
        "--checkpoint",
        "b.pt",
    ]
    assert commands[0][2:] == expected


@pytest.mark.parametrize(
    ("fits", "may_ask", "asks", "warns"),
    [(True, True, False, False), (False, True, True, True), (False, False, False, True)],
)
def test_models_that_may_not_fit_are_warned_about(monkeypatch, capsys, fits, may_ask, asks, warns):
    questions = []
    monkeypatch.setattr(load_models, "memory_report", lambda paths, **options: ("2 models need 1 GB", fits))
    monkeypatch.setattr(load_models, "find_named_checkpoint", lambda argument, folder: ("a", Path(argument)))
    monkeypatch.setattr(load_models, "confirm", questions.append)
    config = SimpleNamespace(
        generation=SimpleNamespace(dtype="auto", quantize="none"), paths=SimpleNamespace(checkpoint_dir=Path())
    )
    load_models._check_memory(load_models.ModelRequest(["a", "b"], config, "cpu"), may_ask=may_ask)
    assert bool(questions) == asks
    assert capsys.readouterr().err.startswith("warning: ") == warns
