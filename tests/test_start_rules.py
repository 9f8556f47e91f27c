"""How a run starts: the context it trains, the settings it lists, the kernels it chooses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.configuration import Config, load_config
from pipeline.modeling import cpu_attention, flash_attention
from pipeline.modeling.config import ModelConfig
from pipeline.training import prepare_model
from pipeline.training.config import TrainingConfig
from pipeline.training.gradients import synthetic_batch
from pipeline.training.starting_point import _pair, _within_trained_context, setting_changes
from utils import plots
from utils.errors import PipelineError

CPU = torch.device("cpu")


def config_of(window: int, context: int, *settings: str) -> Config:
    return load_config(settings=[f"dataset.window={window}", f"model.max_position_embeddings={context}", *settings])


@pytest.mark.parametrize(
    ("window", "context", "trained", "expected", "num_notes"),
    [(64, 64, None, 64, 0), (64, 65, None, 64, 1), (64, 128, 96, 96, 1), (64, 96, 96, 96, 0), (96, 96, 96, 96, 0)],
)
def test_the_context_is_what_training_reaches(window, context, trained, expected, num_notes):
    content = {} if trained is None else {"config": {"model": {"max_position_embeddings": trained}}}
    config, notes = _within_trained_context(config_of(window, context), content, Path("x.pt"))
    assert (config.model.max_position_embeddings, len(notes)) == (expected, num_notes)


def test_a_longer_window_than_the_checkpoints_must_be_asked_for():
    content = {"config": {"model": {"max_position_embeddings": 64}}}
    with pytest.raises(PipelineError, match=r"of 64 tokens, but dataset\.window is 65; .*rope_scaling_factor=2,"):
        _within_trained_context(config_of(65, 128), content, Path("x.pt"))
    scaled = config_of(128, 128, "model.rope_scaling=linear", "model.rope_scaling_factor=2")
    config, _ = _within_trained_context(scaled, content, Path("x.pt"))
    assert config.model.context_length == 128


def test_only_settings_on_both_sides_can_differ():
    old = {"training": {"seed": 1, "gone": 2}, "old": {"a": 1}}
    new = {"training": {"seed": 3, "new": 4}, "sft": {"b": 1}}
    assert setting_changes(old, new) == [("training", "seed", 1, 3)]


@pytest.mark.parametrize(("length", "shown"), [(40, "a" * 40), (41, "a" * 12)])
def test_fingerprints_are_shortened_but_names_are_not(length, shown):
    assert _pair("a" * length, None) == f"{shown} in the checkpoint, None now"


class Model:
    config = ModelConfig()

    def run_as(self, execution) -> None:
        self.execution = execution


@pytest.mark.parametrize(
    ("compile_mode", "problem", "said", "compiled"),
    [
        ("auto", None, "float32, compiled (the first steps take longer)", True),
        ("on", None, "float32, compiled (the first steps take longer)", True),
        ("auto", "there is no compiler", "float32, not compiled (there is no compiler)", False),
        ("off", None, "float32, not compiled (training.compile is off)", False),
    ],
)
def test_training_is_compiled_where_it_can_be(monkeypatch, compile_mode, problem, said, compiled):
    monkeypatch.setattr(prepare_model, "compiler_problem", lambda device: problem)
    model = Model()
    config = TrainingConfig(compile=compile_mode, attention="flash")
    assert prepare_model.prepare_for_training(model, config, CPU, varying_lengths=True) == said
    execution = model.execution
    assert (execution.compiled, execution.flash_only, execution.varying_lengths) == (compiled, False, True)
    monkeypatch.setattr(prepare_model, "compiler_problem", lambda device: "there is no compiler")
    with pytest.raises(PipelineError, match=r"training\.compile is on, but there is no compiler"):
        prepare_model.prepare_for_training(model, replace(config, compile="on"), CPU)


def test_the_reason_against_flash_attention_is_quoted():
    error = RuntimeError("No kernel.\nlong trace")
    reasons = ["too old (Triggered internally at x.cpp:1)", "wrong size (Triggered internally at y.cpp:2)"]
    text = flash_attention._explanation(ModelConfig(), CPU, torch.bfloat16, reasons, error)
    assert "runs here (cpu, heads of 64, bfloat16): too old; wrong size; use " in text
    assert ": No kernel.; use " in flash_attention._explanation(ModelConfig(), CPU, torch.bfloat16, [], error)


@pytest.mark.parametrize(("length", "fits"), [(128, True), (512, True), (640, False), (129, False), (127, False)])
def test_blocked_attention_takes_short_windows_of_whole_blocks(length, fits):
    assert cpu_attention.fits(length) == fits


def test_measured_batches_repeat_and_stay_in_the_vocabulary():
    batch = synthetic_batch(3, 50, vocab_size=7, device=CPU, document_start=0)
    ids = batch["input_ids"]
    assert ids.shape == (3, 50)
    assert (ids.min(), ids.max()) == (0, 6)
    assert torch.equal(ids, synthetic_batch(3, 50, vocab_size=7, device=CPU)["input_ids"])
    assert torch.equal(batch["segment_ids"][:, -1], (ids == 0).sum(1))


@pytest.mark.parametrize(("count", "marker"), [(20, "o"), (21, "None")])
def test_points_are_marked_in_short_curves_only(tmp_path, monkeypatch, count, marker):
    figures: list = []
    monkeypatch.setattr(plots, "save_figure", lambda path, figure: figures.append(figure))
    points = [(step, 2.0 * step) for step in range(count)]
    plots.save_curves(tmp_path / "a.png", {"loss": points}, title="Loss", x_label="step", y_label="nats")
    (axes,) = figures[0].axes
    (line,) = axes.lines
    assert line.get_marker() == marker
    assert line.get_xydata().tolist() == [list(point) for point in points]
    assert (axes.get_xlabel(), axes.get_ylabel(), figures[0].get_suptitle()) == ("step", "nats", "Loss")
