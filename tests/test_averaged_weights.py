"""The average of a run's last checkpoints, scored next to the last one."""

import json

import pytest
import torch

import benchmark
from pipeline.configuration import load_config
from pipeline.evaluation.averaged_weights import load_last_and_average
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import UsageError


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Steps 10, 20 and 30, of which the latest repeats the last."""
    folder = tmp_path_factory.mktemp("averages") / "run_2026_01_01_10_00"
    tokenizer = trained_tokenizer(folder.parent / "tokenizer")
    for number, name in enumerate(("step_10", "step_20", "step_30", "latest"), start=1):
        path = small_checkpoint(folder / f"checkpoint_{name}.pt", tokenizer, weight_scale=float(number))
        content = torch.load(path, weights_only=True)
        torch.save(content | {"step": min(10 * number, 30)}, path)
    return folder


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_weights_are_the_mean_of_the_last_checkpoints(run_folder):
    last, average = load_last_and_average(str(run_folder), load_config(), count=2, device="cpu")
    states = [weights(run_folder / f"checkpoint_{name}.pt") for name in ("step_20", "latest")]
    for name, tensor in average.model.state_dict().items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)
    assert torch.equal(last.model.state_dict()["model.norm.weight"], states[1]["model.norm.weight"])


def test_a_checkpoint_ends_the_average(run_folder):
    path = run_folder / "checkpoint_step_20.pt"
    last, average = load_last_and_average(str(path), load_config(), count=2, device="cpu")
    assert last.content["step"] == average.content["step"] == 20


def test_too_few_checkpoints_are_named(run_folder):
    with pytest.raises(UsageError, match=r"--average 9 needs 9 checkpoints, but .* has 3; .* training\.keep_last=N"):
        load_last_and_average(str(run_folder), load_config(), count=9, device="cpu")


def test_report_compares_the_average_with_the_last(run_folder, tmp_path, capsys):
    options = ["--offline-samples", "--quick", "--tasks", "hellaswag", "--set", f"paths.benchmark_dir={tmp_path}"]
    assert benchmark.main(["--checkpoint", str(run_folder), "--average", "3", "--device", "cpu", *options]) == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert list(report["models"]) == ["latest", "average of 3"]
    assert "average of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--average", "1"], "expected at least 2 checkpoints"),
        (["--average", "3", "--over-training", "latest"], "compares one run with itself"),
        (["--average", "3", "--checkpoint", "a", "--checkpoint", "b"], "compares one run with itself"),
    ],
)
def test_average_needs_one_run(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.parse_args(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
