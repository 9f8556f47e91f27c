"""train.py in separate processes: signals, several processes, resuming, compiled training."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import main
from tests.training_runs import (
    assert_same_state,
    content_of,
    losses_of,
    newest_run,
    run_train,
)
from utils.errors import PipelineError

CHECKOUT = Path(__file__).resolve().parent.parent


def train_command(project: Path, *arguments: str, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return [sys.executable, *launcher, str(CHECKOUT / "train.py"), "--config", str(project / "config.json"), *arguments]


def run_command(project: Path, *arguments: str, processes: int = 1, threads: int = 1) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = train_command(project, *arguments, processes=processes)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_from_outside_gives_its_exit_code(project, number, code):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = train_command(project, "--set", "training.max_steps=100000")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "validation" in line:
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert content_of(newest_run(project))["step"] > 0


def test_two_processes_train_like_one(project):
    """The losses equal those of one process that accumulates; and a run is continued by a different number of processes
    only if the step size stays the same."""
    settings = ["--set", "model.dropout=0.0", "--set", "training.sample_prompts=[]"]
    halved = [*settings, "--set", "training.batch_size=2"]  # and two batches a step, of which the last exchanges
    alone = run_train(project, *settings)
    finished = run_command(project, *halved, processes=2)
    assert finished.returncode == 0, finished.stderr
    pair = newest_run(project)
    assert pair != alone
    one, two = losses_of(project, alone), losses_of(project, pair)
    assert list(one) == list(two)
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, abs=2e-6), step
    assert content_of(pair)["tokens_seen"] == content_of(alone)["tokens_seen"]
    assert finished.stdout.count("best validation loss") == 1, "only the main process prints"

    again = pair.with_name("run_again")
    shutil.copytree(pair, again)
    resume = ["--resume", str(again / "checkpoint_step_14.pt")]
    with pytest.raises(PipelineError, match="trained with 8 windows per step, but the current settings give 4"):
        run_train(project, *halved, *resume)
    run_train(project, *settings, *resume)
    assert content_of(again)["step"] == 20


@pytest.mark.parametrize(
    ("processes", "threads", "settings"),
    [
        pytest.param(2, 1, {}, marks=pytest.mark.slow, id="two processes, dropout"),
        pytest.param(
            1, 2, {"training.compile": "on", "training.dtype": "bfloat16"}, marks=pytest.mark.slow, id="compiled"
        ),
        pytest.param(2, 1, {"training.compile": "on"}, marks=pytest.mark.slow, id="two processes, compiled"),
    ],
)
def test_resumed_process_ends_with_the_same_weights(project, processes, threads, settings):
    """Resumed in new processes, with windows long enough for compiled CPU attention, and with tokens repeated often
    enough for several threads to add to the same gradient."""
    settings |= {"dataset.window": 128, "model.max_position_embeddings": 128, "training.batch_size": 4}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    finished = run_command(project, *options, processes=processes, threads=threads)
    assert finished.returncode == 0, finished.stderr
    assert ("compiled (the first" in finished.stdout) == ("training.compile" in settings)
    whole = newest_run(project)
    again = whole.with_name("run_again")
    shutil.copytree(whole, again)
    resume = ["--resume", str(again / "checkpoint_step_14.pt")]
    resumed = run_command(project, *options, *resume, processes=processes, threads=threads)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_state(content_of(whole), content_of(again))
    assert losses_of(project, whole)[20] == losses_of(project, again)[20]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "dataset.custom_dir=nowhere"], 1, "nowhere does not exist; run: python3 main.py prepare"),
        pytest.param(
            ["--dry-run", "--profile"],
            2,
            "--profile cannot be used with --dry-run, which writes nothing",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_errors_in_two_processes_are_one_line_each(project, arguments, code, said):
    command = [sys.executable, str(CHECKOUT / "main.py"), "train", "--nproc", "2", "--config", "config.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("error: ") and line.endswith(said) for line in lines), done.stderr


def test_a_process_that_was_killed_is_named(tmp_path):
    dying = tmp_path / "dying.py"
    dying.write_text("import os, signal\nif os.environ['RANK'] == '1':\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    command = [sys.executable, main.LAUNCHER, "--standalone", "--nproc-per-node=2", str(dying)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr == "error: process 1 was killed by SIGKILL (the system may have run out of memory)\n"
