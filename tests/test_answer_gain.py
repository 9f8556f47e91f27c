"""Tuning reports how many questions of a file the model answers correctly before and after."""

import json
import shutil
from unittest.mock import Mock

import pytest
import torch

import benchmark
import lima_tokenizer
import post_training
from model import load_model
from pipeline.configuration import load_config
from pipeline.evaluation import questions as scorer
from pipeline.formats.checkpoint import read_checkpoint, write_checkpoint
from pipeline.generation import loading
from pipeline.training.cpu_settings import plain_float32_products
from pipeline.tuning.answer_gain import AnswerGain
from pipeline.tuning.finetuning import TuningStart
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import PipelineError, UsageError

QUESTIONS = [
    *({"question": f"fox {number}?", "answers": ["lazy dog"]} for number in range(4)),
    {"question": "Zürich?", "answers": ["brown"]},
    {"question": "over?", "unknown": True},
]


@pytest.fixture(scope="module", autouse=True)
def _no_plots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.curves.draw_runs", lambda path, runs: None)
        yield


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """The folder with a base model, conversations, a question file and a tuned run; its settings; the run."""
    folder = tmp_path_factory.mktemp("answer_gain")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    small_checkpoint(folder / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt", tokenizer, weight_scale=1.0)
    write_lines(folder / "chats.jsonl", [{"conversations": [f"fox {n}?", "the lazy dog"]} for n in range(20)])
    write_lines(folder / "questions.jsonl", QUESTIONS)
    paths = {"tokenizer": "tokenizer", "checkpoint": "checkpoints", "log": "logs", "post_training": "data"}
    values = [*(f"paths.{key}_dir={folder / name}" for key, name in paths.items()), "training.device=cpu"]
    values += ["sft.sample_prompts=[]", "sft.base_val_tokens=0", "sft.validations_per_epoch=1"]
    settings = [part for value in values for part in ("--set", value)]
    assert lima_tokenizer.main(["--input", str(folder / "chats.jsonl"), "--max-length", "64", *settings]) == 0
    asked = ["--questions", str(folder / "questions.jsonl"), "--epochs", "3", "--lr", "0.02"]
    assert post_training.main(["--checkpoint", "latest", *asked, *settings]) == 0
    (run,) = (folder / "checkpoints").glob("sft_*")
    return folder, settings, run


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_counts_equal_the_benchmarks(workshop, tmp_path):
    folder, settings, run = workshop
    record = json.loads((run / "sft_config.json").read_text())["questions"]
    best = str(read_checkpoint(run / "checkpoint_best.pt")["step"])
    asked = ["--questions", str(folder / "questions.jsonl"), "--set", f"paths.benchmark_dir={tmp_path}"]
    assert benchmark.main(["--checkpoint", f"best={run / 'checkpoint_best.pt'}", *settings, *asked]) == 0
    measured = json.loads(next(tmp_path.glob("questions_*.json")).read_text())["best"]
    assert record["counts"][best] == {kind: measured[kind] for kind in ("known", "unknown")}
    assert record["counts"][best]["known"]["right"] > record["counts"]["0"]["known"]["right"]


def test_the_untuned_model_is_the_base_model(workshop):
    folder, _, run = workshop
    questions = scorer.read_questions(folder / "questions.jsonl")
    content = read_checkpoint(run / "checkpoint_best.pt")
    tokenizer = trained_tokenizer(folder / "same_tokenizer")
    replies = scorer.ask(load_model(content["base"]["checkpoint"]), tokenizer, questions.asked)
    expected = scorer.count_values(scorer.score(questions, replies))
    assert content["questions"]["counts"] == {"0": expected}


def test_both_counts_are_logged(workshop):
    folder, _, run = workshop
    lines = map(json.loads, (folder / "logs" / "raw_metrics" / f"{run.name}.jsonl").read_text().splitlines())
    logged = {
        str(line["model_step"]): {kind: line[kind] for kind in ("known", "unknown")}
        for line in lines
        if line.get("event") == "questions"
    }
    assert logged == json.loads((run / "sft_config.json").read_text())["questions"]["counts"]


def test_lines_compare_before_and_after(workshop):
    known = {"right": 12, "total": 300, "interval_95": [0.023, 0.069]}
    better = {"right": 290, "total": 300, "interval_95": [0.94, 0.982]}
    none = {"right": 0, "total": 0, "interval_95": [0.0, 1.0]}
    few = {"right": 1, "total": 5, "interval_95": [0.036, 0.624]}
    counts = {"0": {"known": known, "unknown": none}, "46": {"known": better, "unknown": none}}
    gain = AnswerGain(workshop[0], lambda path: {}, {"file": "q", "counts": counts})
    line = "questions: 12 of 300 right before tuning (2% to 7%), 290 at step 46 (94% to 98%)"
    assert gain.lines(46) == [line]
    counts = {"0": {"known": none, "unknown": few}}
    gain = AnswerGain(workshop[0], lambda path: {}, {"file": "q", "counts": counts})
    assert gain.lines(0) == ["unknown questions: 1 of 5 admitted before tuning (4% to 62%), 1 at step 0 (4% to 62%)"]


def test_a_resumed_run_keeps_the_count_before_tuning(workshop, tmp_path, monkeypatch, capsys):
    spy = Mock(side_effect=loading.load_for_inference)
    monkeypatch.setattr(loading, "load_for_inference", spy)
    _, settings, run = workshop
    before = {kind: {"right": 3, "total": 9, "interval_95": [0.1, 0.6]} for kind in ("known", "unknown")}
    content = read_checkpoint(run / "checkpoint_epoch_2.pt")
    content["questions"]["counts"] = {"0": before}
    write_checkpoint(tmp_path / "checkpoint_latest.pt", content)
    shutil.copyfile(run / "sft_config.json", tmp_path / "sft_config.json")
    assert post_training.main(["--resume", str(tmp_path), *settings]) == 0
    shown = capsys.readouterr().out
    assert "questions: 3 of 9 right before tuning (10% to 60%), " in shown
    asked = [call.args[0] for call in spy.call_args_list]
    assert asked == [str(tmp_path / "checkpoint_best.pt")]  # the base model is not asked again
    assert read_checkpoint(tmp_path / "checkpoint_latest.pt")["questions"]["counts"]["0"] == before
    record = json.loads((tmp_path / "sft_config.json").read_text())
    whole = json.loads((run / "sft_config.json").read_text())
    last = max(whole["questions"]["counts"], key=int)
    assert record["questions"]["counts"][last] == whole["questions"]["counts"][last]


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"sha256": "other"}, "was changed since"), ({"file": "/nowhere/q.jsonl"}, "/nowhere/q.jsonl does not exist")],
)
def test_other_questions_are_not_compared(workshop, capsys, change, problem):
    record = read_checkpoint(workshop[2] / "checkpoint_best.pt")["questions"]
    start = TuningStart(workshop[2], {"questions": {**record, **change}}, load_config(), resumes=True, name=None)
    assert post_training._answer_gain(start, None) is None
    assert problem in capsys.readouterr().out


@pytest.mark.parametrize(("text", "problem"), [(None, "cannot be read"), ('{"question": "Who?"}', ":1: `answers`")])
def test_a_bad_file_is_refused_before_a_run_exists(workshop, tmp_path, text, problem):
    folder, settings, _ = workshop
    file = tmp_path / "questions.jsonl"
    if text:
        file.write_text(text)
    runs = sorted((folder / "checkpoints").iterdir())
    with pytest.raises(PipelineError, match=problem):
        post_training.main(["--checkpoint", "latest", "--questions", str(file), *settings])
    assert sorted((folder / "checkpoints").iterdir()) == runs


def test_an_interrupted_count_leaves_no_run(workshop, monkeypatch):
    folder, settings, _ = workshop

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(scorer, "ask", interrupt)
    runs, logs = (sorted((folder / name).rglob("*")) for name in ("checkpoints", "logs"))
    with pytest.raises(KeyboardInterrupt):
        post_training.main(
            ["--checkpoint", "latest", "--questions", str(folder / "questions.jsonl"), *settings],
        )
    assert [runs, logs] == [sorted((folder / name).rglob("*")) for name in ("checkpoints", "logs")]


def test_a_resumed_run_takes_no_other_questions():
    with pytest.raises(UsageError, match="--questions cannot be used with --resume"):
        post_training.parse_args(["--resume", "latest", "--questions", "q.jsonl"])


def test_counting_uses_plain_products_then_restores():
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with plain_float32_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(earlier)
