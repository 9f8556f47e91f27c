"""train.py in this process: runs, interruptions, resuming, errors."""

import json
import os
import re
import signal
import sys

import numpy as np
import pytest
import torch

import train
from model import TransformerLM
from pipeline.dataloading.loaders import ValidationLoader
from pipeline.formats.checkpoint import only_training_run, write_checkpoint
from pipeline.training.trainer import Trainer
from tests.small_models import trained_tokenizer
from tests.training_runs import (
    WINDOW,
    assert_same_state,
    content_of,
    losses_of,
    newest_run,
    run_train,
    write_tokens,
)
from utils.errors import PipelineError, Terminated, UsageError
from utils.raw_log import read_log


def stop_at(step: int, number: int):
    """A train_step that receives a signal during `step`."""
    original = Trainer.train_step

    def stopping(self: Trainer) -> float:
        if self.step + 1 == step:
            os.kill(os.getpid(), number)
        return original(self)

    return stopping


def test_run_learns_and_writes_its_files(project, capsys):
    run = run_train(project, "--name", "first")
    printed = capsys.readouterr().out
    assert "best validation loss" in printed
    losses = losses_of(project, run)
    assert list(losses) == list(range(1, 21))
    assert losses[20] < losses[1] - 0.1
    names = sorted(path.name for path in run.glob("*.pt"))
    assert names == [f"checkpoint_{name}.pt" for name in ("best", "latest", "step_14", "step_7")]
    content = content_of(run)
    assert (content["name"], content["step"], content["tokens_seen"]) == ("first", 20, 20 * 4 * 2 * 16)
    assert content["tokenizer"] == {"name": "toy", "fingerprint": "f0", "bos_id": 1, "eos_id": 2, "vocab_size": 48}
    assert content["config"]["training"]["max_steps"] == 20
    assert set(content["versions"]) >= {"torch", "numpy", "python", "git", "device"}
    assert set(content["best"]) == {"loss", "perplexity", "bits_per_byte"}
    assert (project / "logs" / "tensorboard" / f"{run.name}_first").is_dir()


def test_test_mode_prints_an_estimate_for_one_epoch(project, capsys):
    run = run_train(project, "--test", "--set", "training.max_steps=null")
    lines = capsys.readouterr().out.splitlines()
    told = next(index for index, line in enumerate(lines) if line.startswith("one epoch: "))
    assert told < next(index for index, line in enumerate(lines) if line.startswith("step "))
    content = content_of(run)
    assert f"one epoch: {content['step']} steps" in lines[told]
    assert content["loader"]["epoch"] == 0
    assert content["loader"]["windows"] == content["step"] * 8


def test_measuring_the_time_changes_nothing(project):
    plain, measured = run_train(project), run_train(project, "--test")
    for name, tensor in content_of(plain)["model"].items():
        assert torch.equal(tensor, content_of(measured)["model"][name])


@pytest.mark.parametrize(
    ("optimizer", "number", "error"),
    [("adamw", signal.SIGINT, KeyboardInterrupt), ("muon", signal.SIGTERM, Terminated)],
)
def test_interrupted_run_resumes_bit_for_bit(project, monkeypatch, optimizer, number, error):
    settings = ["--set", f"training.optimizer={optimizer}", "--set", "training.validations_per_epoch=15"]
    whole = run_train(project, *settings)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop_at(9, number))
        with pytest.raises(error) as caught:
            run_train(project, *settings)
        assert type(caught.value) is error
    stopped = newest_run(project)
    assert content_of(stopped)["step"] == 9, "the current step is finished and saved"
    torch.manual_seed(99)  # the random state in between does not matter
    assert run_train(project, "--resume", str(stopped)) == stopped
    assert_same_state(content_of(whole), content_of(stopped))
    assert losses_of(project, whole) == losses_of(project, stopped)


def test_a_validation_that_was_interrupted_is_made_up_for(project, monkeypatch):
    whole = run_train(project)
    original, batches = ValidationLoader.__iter__, []

    def interrupted(self):
        for batch in original(self):
            batches.append(batch)
            if len(batches) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ValidationLoader, "__iter__", interrupted)
        with pytest.raises(Terminated):
            run_train(project)
    stopped = newest_run(project)
    assert len(batches) == 2, "the rest of the validation is not waited for"
    assert content_of(stopped)["validated_step"] == 0 < content_of(stopped)["step"]
    run_train(project, "--resume", str(stopped))
    assert_same_state(content_of(whole), content_of(stopped))


def test_the_seed_draws_weights_and_order(project):
    runs = [run_train(project, "--set", f"training.seed={seed}", "--set", "training.max_steps=1") for seed in (1, 2)]
    one, two = map(content_of, runs)
    assert (one["loader"]["seed"], two["loader"]["seed"]) == (1, 2)
    assert not torch.equal(one["model"]["model.embed_tokens.weight"], two["model"]["model.embed_tokens.weight"])


def test_killed_run_resumes_and_drops_later_log_lines(project, monkeypatch):
    whole = run_train(project)
    original = Trainer.train_step

    def dying(self: Trainer) -> float:
        if self.step == 12:
            self.logger.flush()
            raise MemoryError("as if the machine went down")
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(MemoryError):
            run_train(project)
    killed = newest_run(project)
    assert content_of(killed)["step"] < 12
    assert max(losses_of(project, killed)) == 12
    run_train(project, "--resume", "latest")
    assert_same_state(content_of(whole), content_of(killed))
    lines = read_log(project / "logs" / "raw_metrics" / f"{killed.name}.jsonl")
    steps = [line["step"] for line in lines if "train_loss" in line]
    assert steps == list(range(1, 21)), "every step is in the log once"


def test_another_dataset_tokenizer_or_shape_is_refused_by_name(project):
    run = run_train(project)
    resume = ["--resume", str(run)]
    with pytest.raises(
        PipelineError, match=r"current settings: model.hidden_size 16 in the checkpoint, 32 now; .*--init-from"
    ):
        run_train(project, *resume, "--set", "model.hidden_size=32")
    with pytest.raises(PipelineError, match=r"current settings: training.optimizer adamw in the checkpoint, muon now"):
        run_train(project, *resume, "--set", "training.optimizer=muon")
    write_tokens(project / "data", fingerprint="f1")
    with pytest.raises(
        PipelineError, match="different tokenizer, so its token ids do not match: f0 in the checkpoint, f1 now"
    ):
        run_train(project, *resume)
    write_tokens(project / "data", seed=1)
    with pytest.raises(PipelineError, match="trained on a different dataset"):
        run_train(project, *resume)


def test_resume_refuses_incompatible_changes(project):
    run = run_train(project)
    resume = ["--resume", str(run)]
    stretched = ["--set", "model.rope_scaling=yarn", "--set", "model.rope_scaling_factor=2"]
    for changed, said in (
        (stretched, "model.rope_scaling none in the checkpoint, yarn now"),
        (["--set", "model.rope_theta=500"], "model.rope_theta 10000.0 in the checkpoint, 500.0 now"),
        (["--set", "dataset.parts=2"], "dataset.parts 4 in the checkpoint, 2 now"),
        (["--set", "dataset.seed=7"], "dataset.seed 42 in the checkpoint, 7 now"),
    ):
        with pytest.raises(PipelineError, match=f"it no longer matches the current settings: {said}"):
            run_train(project, *resume, *changed)
    tuned = project / "checkpoints" / "sft_lima_x" / "checkpoint_latest.pt"
    write_checkpoint(tuned, content_of(run) | {"data": {"fingerprint": "f"}})
    with pytest.raises(PipelineError, match=r"is a fine-tuning run, not a pretraining run; .*--init-from"):
        run_train(project, "--resume", str(tuned))
    with pytest.raises(PipelineError, match=r"--test: .* is not a test run"):
        run_train(project, *resume, "--test")
    tested = run_train(project, "--test")
    assert run_train(project, "--resume", str(tested), "--test") == tested


def test_a_start_that_is_refused_leaves_nothing_behind(project):
    run = run_train(project)
    log = project / "logs" / "raw_metrics" / f"{run.name}.jsonl"
    before = sorted(project.rglob("*")), log.read_text()
    with pytest.raises(PipelineError, match="trained with 8 windows per step"):
        run_train(project, "--resume", str(run / "checkpoint_step_7.pt"), "--set", "training.batch_size=2")
    with pytest.raises(PipelineError, match="does not match the model: "):
        run_train(project, "--init-from", str(run), "--set", "model.hidden_size=32")
    assert (sorted(project.rglob("*")), log.read_text()) == before


def test_the_parts_of_a_resumed_run_are_the_checkpoints(project, capsys, monkeypatch):
    write_tokens(project / "data", tokens=60_000)
    monkeypatch.setattr(
        "pipeline.dataloading.loaders.free_memory", lambda device: 200_000
    )  # too little for two of four parts
    run = run_train(project)
    said = re.search(r"to train on cpu in (\d+) parts", capsys.readouterr().out)
    assert int(said[1]) > 4
    assert content_of(run)["loader"]["num_parts"] == int(said[1])
    monkeypatch.undo()
    run_train(project, "--resume", str(run), "--set", "training.max_steps=24")
    assert said[0] in capsys.readouterr().out
    assert content_of(run)["loader"]["num_parts"] == int(said[1])


def test_longer_context_requires_scaled_positions(project, capsys):
    run = run_train(project, "--set", "model.max_position_embeddings=64")
    assert "context: 16 tokens, from dataset.window; model.max_position_embeddings 64 is" in capsys.readouterr().out
    assert content_of(run)["config"]["model"]["max_position_embeddings"] == 16
    longer = ["--init-from", str(run), "--set", "dataset.window=32", "--set", "training.max_steps=1"]
    with pytest.raises(PipelineError, match=r"below dataset.window 32; .*a trained one, --set model.rope_scaling"):
        run_train(project, *longer)
    with pytest.raises(
        PipelineError, match=r"a context of 16 tokens, but dataset.window is 32; .*rope_scaling_factor=2"
    ):
        run_train(project, *longer, "--set", "model.max_position_embeddings=32")
    content = json.loads((project / "config.json").read_text())
    content["model"] |= {"rope_scaling": "yarn", "rope_scaling_factor": 2.0}  # a longer context is a config line
    (project / "config.json").write_text(json.dumps(content))
    run_train(project, *longer)
    lowered = ["--init-from", str(run), "--set", "model.max_position_embeddings=64", "--set", "training.max_steps=1"]
    capsys.readouterr()
    run_train(project, *lowered)
    assert "context: 32 tokens, from the checkpoint's 16; model.max_position_embeddings 64" in capsys.readouterr().out
    model = content_of(newest_run(project))["config"]["model"]
    assert (model["rope_scaling"], model["max_position_embeddings"]) == ("yarn", 16)


def test_only_the_newest_step_checkpoints_of_a_run_are_kept(project):
    run = run_train(project, "--set", "training.keep_last=1")
    assert [path.name for path in run.glob("checkpoint_step_*.pt")] == ["checkpoint_step_14.pt"]


def test_other_changed_settings_are_listed_and_take_effect(project, capsys):
    run = run_train(project)
    run_train(project, "--resume", str(run), "--set", "training.max_steps=24", "--set", "training.learning_rate=0.004")
    printed = capsys.readouterr().out
    assert "training.max_steps: 20 → 24" in printed
    assert "training.learning_rate: 0.005 → 0.004" in printed
    content = content_of(run)
    assert content["step"] == 24
    assert content["optimizer"][0]["param_groups"][0]["peak_lr"] == 0.004


def test_untrainable_setups_are_one_line_errors(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match=r"device cuda: .*--device cpu"):
        run_train(project, "--device", "cuda")
    with pytest.raises(PipelineError, match=r"of 48 tokens, but model.vocab_size is 64; .*--set model.vocab_size=48"):
        run_train(project, "--set", "model.vocab_size=64")
    (project / "data" / "metadata.json").unlink()
    with pytest.raises(PipelineError, match=r"has no metadata.json; run: python3 main.py prepare"):
        run_train(project)
    assert not (project / "checkpoints").exists(), "a run that cannot start leaves no folder"


def test_weights_of_another_run_begin_a_new_one(project):
    first = run_train(project)
    barely = ["--set", "training.learning_rate=1e-9", "--set", "training.min_learning_rate=0"]
    run_train(project, "--init-from", str(first), "--name", "next", "--set", "training.max_steps=1", *barely)
    second = newest_run(project)
    assert second != first
    content = content_of(second)
    assert (content["step"], content["name"]) == (1, "next")
    assert content["init_from"].endswith(f"{first.name}/checkpoint_latest.pt")
    for name, tensor in content_of(first)["model"].items():
        torch.testing.assert_close(content["model"][name], tensor, atol=1e-6, rtol=0)
    # The weights' shape comes with them; what --set says otherwise cannot be met.
    with pytest.raises(PipelineError, match="does not match the model: "):
        run_train(project, "--init-from", str(first), "--set", "model.hidden_size=32")
    write_tokens(project / "data", fingerprint="f1")
    with pytest.raises(
        PipelineError, match="different tokenizer, so its token ids do not match: f0 in the checkpoint, f1 now"
    ):
        run_train(project, "--init-from", str(first))


def test_a_dry_run_measures_and_writes_nothing(project, capsys):
    before = sorted(project.rglob("*"))
    assert train.main(["--config", str(project / "config.json"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for told in ("step: ", "peak memory: ", "the whole run: 20 steps, 2,560 tokens", "disk: 4 checkpoints of "):
        assert told in printed
    assert re.search(r"^disk: .* in total; [\d.]+ [KMGT]B free$", printed, re.MULTILINE)
    assert sorted(project.rglob("*")) == before
    with pytest.raises(UsageError, match="--profile cannot be used with --dry-run, which writes nothing"):
        train.main(["--config", str(project / "config.json"), "--dry-run", "--profile"])


def test_dry_run_of_a_resumed_run_shows_the_remainder(project, capsys):
    run = run_train(project)
    capsys.readouterr()
    more = ["--resume", str(run), "--set", "training.max_steps=50", "--dry-run"]
    assert train.main(["--config", str(project / "config.json"), *more]) == 0
    assert "the rest of the run: 30 steps, 3,840 tokens" in capsys.readouterr().out
    assert content_of(run)["step"] == 20


def test_losses_are_plotted_and_runs_compared(plotting_project, capsys):
    one = run_train(plotting_project, "--name", "one")
    two = run_train(plotting_project, "--name", "two", "--set", "training.learning_rate=0.001", "--profile")
    assert (one / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    trace = json.loads((two / "trace.json").read_text())
    assert trace["traceEvents"]
    capsys.readouterr()
    config = str(plotting_project / "config.json")
    assert train.main(["--config", config, "--compare", one.name, "two"]) == 0
    printed = capsys.readouterr().out
    assert "best validation loss" in printed
    assert "2,560" in printed
    assert (plotting_project / "logs" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PipelineError, match=r"run three has no log in .*; expected one of: run_.*_(one|two)"):
        train.main(["--config", config, "--compare", "three"])


def test_samples_are_written_at_each_validation_and_change_nothing(project, capsys):
    tokenizer = trained_tokenizer(project / "tokenizer")
    metadata = json.loads((project / "data" / "metadata.json").read_text())
    metadata["tokenizer"]["fingerprint"] = tokenizer.fingerprint
    metadata["vocab_size"] = tokenizer.vocab_size
    metadata["token_byte_lengths"] = tokenizer.token_byte_lengths().tolist()
    (project / "data" / "metadata.json").write_text(json.dumps(metadata))
    settings = ["--set", f"model.vocab_size={tokenizer.vocab_size}", "--set", "training.sample_tokens=5"]
    silent = run_train(project, *settings, "--set", "training.sample_prompts=[]")
    assert "sample: " not in capsys.readouterr().out
    spoken = run_train(project, *settings, "--set", f"paths.tokenizer_dir={project / 'tokenizer'}")
    validations = [line for line in capsys.readouterr().out.splitlines() if "sample: The history of" in line]
    assert len(validations) == 3
    for name, tensor in content_of(silent)["model"].items():
        assert torch.equal(tensor, content_of(spoken)["model"][name])
    lines = read_log(project / "logs" / "raw_metrics" / f"{spoken.name}.jsonl")
    assert [line["step"] for line in lines if line.get("event") == "sample"] == [8, 16, 20]


def test_missing_packages_only_skip_samples_and_plots(project, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if only torch, numpy, tqdm, tensorboard were installed
    monkeypatch.setitem(sys.modules, "tokenizer", None)
    run = run_train(project, "--set", "training.max_steps=2")
    printed = capsys.readouterr().out
    assert "no loss_curve.png: the package matplotlib is not installed" in printed
    assert "no samples: " in printed
    assert not (run / "loss_curve.png").exists()
    monkeypatch.undo()
    run_train(project, "--set", "training.max_steps=2", "--set", f"paths.tokenizer_dir={project / 'nowhere'}")
    missing = (
        f"no samples: {project / 'nowhere'} contains no tokenizer; set its folder with --set paths.tokenizer_dir=DIR\n"
    )
    assert missing in capsys.readouterr().out
    trained_tokenizer(project / "other")
    run_train(project, "--set", "training.max_steps=2", "--set", f"paths.tokenizer_dir={project / 'other'}")
    assert f"no samples: the dataset was not made with the tokenizer in {project / 'other'}" in capsys.readouterr().out


def test_isolated_documents_reach_the_model_as_segments(project, monkeypatch):
    seen = []
    original = TransformerLM.forward

    def watching(self, input_ids, labels=None, **options):
        seen.append((input_ids, options.get("segment_ids")))
        return original(self, input_ids, labels, **options)

    monkeypatch.setattr(TransformerLM, "forward", watching)
    run_train(project, "--set", "dataset.isolate_documents=true", "--set", "training.max_steps=2")
    assert seen
    for ids, segments in seen:
        assert torch.equal(segments, (ids == 1).cumsum(dim=1))


def test_isolated_documents_need_a_document_start(project):
    path = project / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["tokenizer"]["bos_id"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(PipelineError, match=r"does not record which token starts a document .*prepare it again"):
        run_train(project, "--set", "dataset.isolate_documents=true")


def test_the_log_is_json_lines_with_the_configuration_first(project):
    run = run_train(project)
    lines = (project / "logs" / "raw_metrics" / f"{run.name}.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (first["event"], first["config"]["training"]["batch_size"]) == ("start", 4)
    validations = [json.loads(line) for line in lines if "val_loss" in line]
    assert all({"val_perplexity", "val_bits_per_byte", "step"} <= set(record) for record in validations)


@pytest.mark.parametrize("metadata", ['{"tokenizer": "codellama"}', '{"files": 3, "vocab_size": "32016"}', "[]", ""])
def test_an_older_tools_dataset_trains(project, capsys, metadata):
    stream = np.load(project / "data" / "tokens_0.npy")
    np.save(project / "data" / "tokens_0.npy", stream[: len(stream) // WINDOW * WINDOW].reshape(-1, WINDOW))
    (project / "data" / "metadata.json").write_text(metadata)
    run = run_train(project, "--set", "training.max_steps=2")
    assert content_of(run)["step"] == 2
    assert "its metadata.json is from another tool and is ignored" in capsys.readouterr().out


def test_damaged_tokens_are_never_scored(project):
    path = project / "data" / "tokens_0.npy"
    content = bytearray(path.read_bytes())
    content[200:-200] = bytes(len(content) - 400)
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"tokens_0\.npy is damaged: its sha256"):
        run_train(project)
    assert not (newest_run(project) / "checkpoint_best.pt").exists()


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "a\x1b[2J", "x" * 101])
def test_a_name_is_one_part_of_a_path(project, name):
    with pytest.raises(PipelineError, match=r"--name .*expected a single path component"):
        run_train(project, "--name", name)


@pytest.mark.parametrize("name", ["2", "12_wide"])
def test_a_name_cannot_be_taken_for_another_run(name):
    with pytest.raises(PipelineError, match="name that does not begin with a number of its own"):
        train.parse_args(["--name", name])
    assert train.parse_args(["--name", f"v{name}"]).name == f"v{name}"


def test_checkpoint_does_not_decide_where_to_write(project, tmp_path_factory):
    run, elsewhere = run_train(project), tmp_path_factory.mktemp("elsewhere")
    content = content_of(run)
    content["config"]["paths"]["log_dir"] = str(elsewhere / "logs")
    content["config"]["training"]["max_steps"] = 22
    write_checkpoint(run / "checkpoint_latest.pt", content)
    run_train(project, "--resume", str(run), "--set", "training.max_steps=22")
    assert not list(elsewhere.iterdir())
    assert max(losses_of(project, run)) == 22
    write_checkpoint(run / "checkpoint_latest.pt", content | {"name": "x/../../../notes"})
    with pytest.raises(PipelineError, match=r"run name 'x/\.\./\.\./\.\./notes': expected a single path component"):
        run_train(project, "--resume", str(run))


def test_a_run_in_use_is_not_resumed(project, monkeypatch):
    run = run_train(project)
    monkeypatch.setattr("pipeline.formats.checkpoint.LOCK_SECONDS", 0.0)
    with only_training_run(run), pytest.raises(PipelineError, match=f"{run.name} is in use by another training run"):
        run_train(project, "--resume", str(run))


def test_half_written_files_of_a_killed_run_go(project):
    run = run_train(project)
    for name in (".checkpoint_latest.pt.4194305.tmp", ".mine.tmp"):
        (run / name).write_bytes(b"half")
    run_train(project, "--resume", str(run))
    assert [path.name for path in run.glob(".*")] == [".mine.tmp"]


def test_a_best_of_a_dropped_future_is_replaced(project, capsys):
    run = run_train(project)
    first = content_of(run, "step_7") | {"best": {"loss": 9.0}}
    first["metrics"] |= {"best": {"loss": 0.001}, "best_step": 5}
    write_checkpoint(run / "checkpoint_step_7.pt", first)
    run_train(project, "--resume", str(run / "checkpoint_step_7.pt"))
    assert "checkpoint_best.pt is not from step 5; the next validation will replace it" in capsys.readouterr().out
    assert content_of(run, "best")["step"] == content_of(run)["metrics"]["best_step"] > 7


def test_early_stopping_prints_its_reason(project, capsys):
    run_train(
        project,
        "--set",
        "training.early_stopping_patience=1",
        "--set",
        "training.validations_per_epoch=40",
        "--set",
        "training.learning_rate=0.5",
    )
    assert re.search(
        r"stopped early: 1 validations? in a row without a new best .*best was at step \d+", capsys.readouterr().out
    )


def test_test_run_with_max_steps_is_not_an_epoch(project, capsys):
    run_train(project, "--test", "--set", "training.max_steps=2")
    printed = capsys.readouterr().out
    assert "training.max_steps, 0.0" in printed
    assert "one epoch" not in printed


def test_odd_lines_and_older_logs_are_compared(project, capsys):
    folder = project / "logs" / "raw_metrics"
    folder.mkdir(parents=True)
    (folder / "old.jsonl").write_text(
        '123\n{"step": 3, "val_loss": 2.5}\n{"step": 4, "train_tokens": "many", "val_loss": null}\n'
    )
    assert train.main(["--config", str(project / "config.json"), "--compare", "old"]) == 0
    assert "2.5000" in capsys.readouterr().out
