"""The GPU's check in its CPU form: every step gives a verdict, finds a fault, and cannot hide the next step."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import doctor
from pipeline.doctor.gpu import command, correctness, memory, speed, synthetic_run, training_runs
from pipeline.doctor.gpu.check import Plan, Result, as_json, run_step, run_steps, table
from pipeline.doctor.gpu.step_process import RUN, rows_of
from pipeline.doctor.gpu.steps import STEPS, Step, chosen_steps
from pipeline.doctor.gpu.trial import REHEARSAL, Preset, Row, Trial, at_most
from pipeline.modeling.config import ModelConfig
from pipeline.training.dry_run import dry_run
from utils.errors import PipelineError, UsageError

# FlexAttention is compiled, as is "compiled"; "processes" starts others; "out-of-memory" limits its own process.
COMPARISONS = ["float32", "bfloat16", "flash", "packing", "checkpointing", "head", "cache", "int8"]
SLOW = ["documents", "compiled", "processes", "out-of-memory", "memory-25m"]

# A clone that looks like nanoGPT and is one matrix.
FAKE_CLONE = """
import torch

class GPTConfig:
    def __init__(self, vocab_size, **others):
        self.vocab_size = vocab_size

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def configure_optimizers(self, decay, rate, betas, device):
        return torch.optim.SGD(self.parameters(), lr=rate)

    def forward(self, ids, targets):
        logits = self.table(ids)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


@pytest.fixture
def trial(tmp_path) -> Trial:
    return Trial("cpu", REHEARSAL, tmp_path)


def verdicts(rows: list[Row]) -> set[str]:
    return {row.verdict for row in rows}


# ---- the steps


def test_every_step_has_something_that_runs_it():
    assert list(RUN) == [step.name for step in STEPS]


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_passes_on_the_cpu(trial, name):
    assert verdicts(RUN[name](trial)) == {"pass"}


def test_a_resumed_run_is_equal_on_the_cpu(trial):
    assert verdicts(RUN["resumed"](trial)) == {"pass", "measured"}


@pytest.mark.parametrize("name", ["speed-25m", "writing"])
def test_a_measurement_has_a_result(trial, name):
    assert verdicts(RUN[name](trial)) == {"measured"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_step_passes_on_the_cpu(name, tmp_path):
    result = run_step(Step(name, "training"), Plan("cpu", rehearse=True), tmp_path)
    assert verdicts(result.rows) <= {"pass", "measured"}, result.log


@pytest.mark.slow
def test_the_whole_rehearsal_succeeds(tmp_path, capsys):
    assert doctor.main(["--gpu", "--rehearse", "--output", str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out.replace(str(tmp_path), "")
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.gpu
def test_the_gpu_computes_what_the_cpu_does(tmp_path):
    assert doctor.main(["--gpu", "--only", "correctness", "--output", str(tmp_path / "report.json")]) == 0


# ---- faults that the steps must find


def test_attention_that_looks_ahead_fails(trial, monkeypatch):
    def seeing_all(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: object) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    monkeypatch.setattr(correctness, "attend", seeing_all)
    assert verdicts(RUN["flash"](trial)) == {"fail"}


def test_documents_that_see_each_other_fail(trial, monkeypatch):
    plain = correctness.passes
    monkeypatch.setattr(correctness, "passes", lambda model, ids, segment_ids, labels: plain(model, ids, labels=labels))
    assert "fail" in verdicts(RUN["packing"](trial))


def test_a_wrong_loss_of_the_head_fails(trial, monkeypatch):
    right = correctness.head_loss_sum
    monkeypatch.setattr(correctness, "head_loss_sum", lambda *tensors, **options: 1.1 * right(*tensors, **options))
    assert verdicts(RUN["head"](trial)) == {"fail"}


def test_a_cache_that_forgets_fails(trial, monkeypatch):
    class Forgetful(correctness.KVCache):
        def update(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            keys, values = super().update(layer, keys, values)
            return keys, torch.zeros_like(values)

    monkeypatch.setattr(correctness, "KVCache", Forgetful)
    assert "fail" in verdicts(RUN["cache"](trial))


def test_a_difference_that_is_not_a_number_fails():
    assert at_most("logits", float("nan"), 1e-3).verdict == "fail"


@pytest.mark.parametrize(("foretold", "verdict"), [(100, "pass"), (109, "pass"), (112, "fail"), (85, "fail")])
def test_a_memory_figure_must_be_near_the_peak(foretold, verdict):
    row = memory._memory_row("25M, --summary", foretold << 20, 100 << 20, torch.device("cuda"))
    assert row.verdict == verdict


def test_the_figure_of_a_dry_run_is_read_from_its_report(trial, monkeypatch):
    def report(trial: Trial, preset: Preset, *more: str) -> tuple[int, str]:
        with synthetic_run.training_run(trial, preset) as trainer:
            return 0, dry_run(trainer)

    monkeypatch.setattr(memory, "run_train", report)
    assert memory.dry_run_figure(trial, REHEARSAL.presets[0]) > 1 << 20


@pytest.mark.parametrize(("code", "output", "verdict"), [(1, "lower --nproc", "pass"), (0, "done", "fail")])
def test_a_process_without_a_gpu_must_be_refused(monkeypatch, trial, code, output, verdict):
    monkeypatch.setattr(training_runs, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(training_runs, "launch", lambda trial, num_processes: (code, output))
    assert verdicts(training_runs.start_too_many_processes(trial)) == {verdict}


def test_a_slow_gpu_is_below_the_aim_and_does_not_fail(monkeypatch, trial):
    monkeypatch.setattr(speed, "peak_flops", lambda device: 989e12)
    monkeypatch.setattr(speed, "describe_device", lambda device: "NVIDIA H100 80GB HBM3")
    rows = {row.what: row for row in speed.measure_training(trial, 0)}
    assert rows["tiny, utilisation"].verdict == "below aim"
    assert rows["tiny, utilisation"].expected == "at least 55%"


def test_the_batch_that_is_timed_fits_the_memory():
    assert speed.fitting_rows(ModelConfig(), 32, 1024, memory=float("inf")) == 32
    assert 0 < speed.fitting_rows(ModelConfig(), 32, 1024, memory=2 << 30) < 32
    assert speed.fitting_rows(ModelConfig(), 32, 1024, memory=1 << 20) == 0


# ---- a process for each step


def test_a_step_runs_in_its_own_process_and_is_reported(tmp_path, capsys):
    path = tmp_path / "report.json"
    assert doctor.main(["--gpu", "--rehearse", "--only", "cudnn", "--output", str(path)]) == 0
    content = json.loads(path.read_text())
    assert [step["step"] for step in content["steps"]] == ["cudnn"]
    assert content["versions"]["torch"] == torch.__version__
    assert str(path) in capsys.readouterr().out


def plan_that_runs(code: str) -> Plan:
    return Plan("cpu", starter=(sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("code", "seconds", "found"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 60, "killed by SIGKILL"),
        ("raise SystemExit(3)", 60, "exit 3 without a result"),
        ("import signal; signal.pause()", 0.3, "no result within"),
    ],
)
def test_a_step_that_gives_no_result_does_not_hide_the_next(code, seconds, found):
    steps = [Step("flash", "correctness", seconds), Step("head", "correctness", seconds)]
    results = run_steps(steps, plan_that_runs(code))
    assert [result.step for result in results] == ["flash", "head"]
    for result in results:
        assert result.has_failed
        assert found in result.rows[0].found


def test_what_a_failed_step_printed_is_kept(tmp_path):
    plan = plan_that_runs("print('CUDA error: an illegal memory access'); raise SystemExit(1)")
    assert "illegal memory access" in run_step(Step("flash", "correctness"), plan, tmp_path).log


def test_an_exception_is_a_row(trial, monkeypatch):
    def fail(trial: Trial) -> list[Row]:
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setitem(RUN, "flash", fail)
    (row,) = rows_of("flash", trial)
    assert (row.verdict, row.found) == ("error", "RuntimeError: no kernel image")


def test_others_are_timed_from_the_folder_of_their_clone(trial, monkeypatch):
    clone = trial.folder / "clone"
    clone.mkdir()
    (clone / "model.py").write_text(FAKE_CLONE)
    (trial.folder / "speeds.json").write_text(json.dumps({REHEARSAL.presets[1].name: 1e12}))
    monkeypatch.setitem(sys.modules, "model", sys.modules["model"])  # ours again afterwards
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
    rows = rows_of("nanogpt", replace(trial, nanogpt=clone))
    assert [row.verdict for row in rows] == ["measured", "pass"], rows
    assert rows[1].what == "ours against nanogpt"


# ---- the command line


def test_without_a_gpu_one_line_says_what_would_be_done(monkeypatch):
    monkeypatch.setattr(command, "torch_cuda", lambda: None)
    with pytest.raises(PipelineError, match=r"no GPU to check: .* 21 steps would .* --gpu --rehearse") as raised:
        doctor.main(["--gpu"])
    assert "\n" not in str(raised.value)


def test_a_gpu_that_torch_does_not_find_is_no_gpu(monkeypatch):
    monkeypatch.setattr(command, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(command, "find_gpus", list)
    monkeypatch.setattr(command, "_torch_finds_one", lambda: False)
    with pytest.raises(PipelineError, match="PyTorch finds no NVIDIA GPU"):
        doctor.main(["--gpu"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rehearse"], "--rehearse belongs to --gpu"),
        (["--gpu", "--nanogpt", "/no/such/clone"], "expected the folder of a clone"),
        (["--gpu", "--rehearse", "--only", "sped"], "did you mean 'speed'"),
        (["--gpu", "--rehearse", "--only", "nanogpt"], "add --nanogpt DIR"),
    ],
)
def test_wrong_options_are_usage_errors(arguments, message):
    with pytest.raises(UsageError, match=message):
        doctor.main(arguments)


def test_groups_and_steps_can_be_chosen():
    assert {step.group for step in chosen_steps(["memory"])} == {"memory"}
    assert [step.name for step in chosen_steps(["flash", "speed-25m"])] == ["flash", "speed-25m"]
    assert "nanogpt" not in [step.name for step in chosen_steps([])]
    assert "nanogpt" in [step.name for step in chosen_steps([], clones=["nanogpt"])]


def test_the_table_fits_80_columns_and_counts_verdicts():
    rows = [Row("30 steps of 25M, compiled against eager", "losses 1.2e-02 apart", "at most 0.05", "pass")]
    rows.append(Row("cuDNN attention", "an error with a long explanation " * 3, "a result", "error"))
    text = table([Result("compiled", "training", rows, 61.0)])
    assert max(map(len, text.splitlines())) <= 80
    assert "1 pass, 1 error; 1m 01s" in text


def test_a_failure_fails_the_report(tmp_path):
    result = Result("flash", "correctness", [Row("flash", "1", "0", "fail")], 1.0, versions={"torch": "2.13"})
    content = as_json([result], replace(Plan("cuda"), nanogpt=Path("/home/me/nanoGPT")))
    assert content["failed"] is True
    assert content["versions"] == {"torch": "2.13"}
    assert "/home/me" not in json.dumps(content)
