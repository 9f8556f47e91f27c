"""main.py: forwarding, exit codes, signals and the menu, with small fake stages in a copy of the checkout."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

import main
from utils import processes
from utils.errors import UsageError
from utils.processes import Finished

ROOT = Path(main.__file__).resolve().parent

FAKE_STAGE = """
import json, sys
print(json.dumps(sys.argv[1:]))
sys.exit(int(sys.argv[-1]) if sys.argv[-1].isdigit() else 0)
"""

SAVING_STAGE = """
import sys, time
from pathlib import Path
from utils.cli import run

def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.4)  # longer than the quarter of a second that subprocess.run would leave
        Path(sys.argv[1]).write_text("saved")

run(main)
"""

STAGE_THAT_NEEDS_TORCH = """
from utils.cli import run

def main():
    import torch

run(main)
"""

DEAF_STAGE = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the router with two fake stages: `prepare` echoes its arguments, `train` saves when interrupted."""
    root = tmp_path / "checkout"
    (root / "utils").mkdir(parents=True)
    shutil.copy(ROOT / "main.py", root)
    for name in (
        "__init__",
        "cli",
        "errors",
        "files",
        "line_editor",
        "packages",
        "processes",
        "stage_parser",
        "terminal",
        "text_layout",
    ):
        shutil.copy(ROOT / "utils" / f"{name}.py", root / "utils")
    (root / "dataset_prep.py").write_text(FAKE_STAGE)
    (root / "train.py").write_text(SAVING_STAGE)
    return root


def route(checkout: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(checkout / "main.py"), *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, cwd=checkout.parent)


@pytest.mark.parametrize(
    "arguments", [["prepare", "--window", "64", "a b"], ["prepare", "--", "--window", "64", "a b"]]
)
def test_both_forms_forward_the_same_arguments(checkout, arguments):
    result = route(checkout, *arguments)
    assert (result.returncode, result.stdout) == (0, '["--window", "64", "a b"]\n')


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_exit_code_is_passed_on(checkout, code):
    assert route(checkout, "prepare", str(code)).returncode == code


def test_wrong_name_is_answered_with_the_nearest_one(checkout):
    result = route(checkout, "prepair")
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown stage 'prepair'; did you mean 'prepare'?")


def test_option_before_the_stage_is_a_usage_error(checkout):
    assert route(checkout, "--test", "train").returncode == 2


def test_menu_shows_only_existing_stages(checkout):
    listing = route(checkout, "--help").stdout
    assert "prepare" in listing
    assert "benchmark" not in listing


@pytest.mark.parametrize("packages", [[], ["numpy"], ["numpy", "torch"]], ids=str)
@pytest.mark.parametrize("stage", ["train", "prepare"])
def test_stage_runs_in_the_checkout_venv_if_python_lacks_packages(checkout, tmp_path, stage, packages):
    python = make_python(tmp_path / "other", packages)
    installed = checkout / ".venv" / "bin" / "python"
    installed.parent.mkdir(parents=True)
    installed.write_text('#!/bin/sh\necho "in .venv: $2"\n')
    installed.chmod(0o755)
    result = run_router(python, checkout, stage, "--help")
    assert (result.returncode, result.stdout) == (0, "in .venv: --help\n")
    assert ("running with" in result.stderr) == bool(packages)


def test_stage_reports_missing_packages_without_venv(checkout, tmp_path):
    python = make_python(tmp_path / "other", [])
    (checkout / "train.py").write_text(STAGE_THAT_NEEDS_TORCH)
    result = run_router(python, checkout, "train")
    assert result.returncode == 1
    assert result.stderr == (
        f"error: the package torch is not installed for {python}; run: make install, then: .venv/bin/python train.py\n"
    )


def make_python(folder: Path, packages: list[str]) -> Path:
    """A Python with nothing but empty packages of these names."""
    venv.create(folder, with_pip=False)
    (installed,) = folder.glob("lib/python3*/site-packages")
    for package in packages:
        (installed / package).mkdir()
        (installed / package / "__init__.py").touch()
    return folder / "bin" / "python"


def run_router(python: Path, checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), str(checkout / "main.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)


def start_training(checkout: Path, saved: Path, **options) -> subprocess.Popen:
    command = [sys.executable, str(checkout / "main.py"), "train", str(saved)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stage_saves_when_only_the_router_is_signalled(checkout, tmp_path, signum, code):
    process = start_training(checkout, tmp_path / "saved", start_new_session=True)
    process.send_signal(signum)
    assert process.wait(timeout=20) == code
    assert (tmp_path / "saved").read_text() == "saved"


def start_in_terminal(checkout: Path, *arguments: str) -> tuple[int, int]:
    """main.py as the foreground job of a terminal: (process id, the other end of the terminal)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, str(checkout / "main.py"), *arguments])
    return pid, terminal


def read_until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError:
            break
    assert text in seen, seen
    return seen


def read_available(terminal: int) -> str:
    """Read until there is silence for a fifth of a second, or the other side is gone."""
    seen = ""
    while select.select([terminal], [], [], 0.2)[0]:
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError:
            break
    return seen


def test_ctrl_c_reaches_the_stage_once_and_it_saves(checkout, tmp_path):
    pid, terminal = start_in_terminal(checkout, "train", str(tmp_path / "saved"))
    read_until(terminal, "ready")
    os.write(terminal, b"\x03")
    read_until(terminal, "interrupted")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert (tmp_path / "saved").read_text() == "saved"


def test_third_ctrl_c_kills_a_hanging_stage(checkout):
    (checkout / "train.py").write_text(DEAF_STAGE)
    pid, terminal = start_in_terminal(checkout, "train")
    read_until(terminal, "ready")
    seen = ""
    while "killed by SIGKILL" not in seen:  # two simultaneous presses count as one, so press until it works
        os.write(terminal, b"\x03")
        seen += read_available(terminal)
    assert "press Ctrl-C again to kill it" in seen
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 137


@pytest.mark.parametrize("sent_by_terminal", [True, False])
def test_presses_that_are_far_apart_are_no_series(monkeypatch, capsys, sent_by_terminal):
    now, sent = [0.0], []
    stage = SimpleNamespace(send_signal=lambda number: sent.append(number), kill=lambda: sent.append(signal.SIGKILL))
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(processes, "_in_foreground", lambda: sent_by_terminal)
    relay = processes.SignalRelay(shares_group=True)
    relay._handle(signal.SIGTERM, None)
    relay.start(stage)
    assert sent == [signal.SIGTERM]  # it came before the stage
    sent.clear()
    for moment in (10.0, 13.0, 16.0, 18.9):
        now[0] = moment
        relay._handle(signal.SIGINT, None)
    assert sent == ([] if sent_by_terminal else [signal.SIGINT] * 4)
    assert capsys.readouterr().err == "\npress Ctrl-C again to kill it, even while it is saving\n"
    relay._handle(signal.SIGINT, None)
    assert sent[-1] == signal.SIGKILL
    relay._handle(signal.SIGTERM, None)
    assert sent[-1] == signal.SIGTERM
    assert len(relay.received) == 7


def test_menu_splits_arguments_like_a_shell(checkout):
    result = route(checkout, text="prepair\n3\n--name 'two words'\ny\nprepare\n4\nn\n")
    assert result.returncode == 0
    assert '["--name", "two words"]' in result.stdout
    assert "did you mean 'prepare'?" in result.stdout
    assert "prepare failed with exit code 4" in result.stdout
    assert result.stdout.count("Run another module?") == 2


def test_menu_asks_again_for_arguments_with_an_open_quotation(checkout):
    result = route(checkout, text="3\n--name 'two\n--name two\nn\n")
    assert '["--name", "two"]' in result.stdout


@pytest.mark.parametrize("answer", ["7", "q", "quit"])
def test_menu_quits(checkout, answer):
    assert route(checkout, text=f"{answer}\n").returncode == 0


def test_q_at_the_arguments_goes_back_to_the_menu(checkout):
    result = route(checkout, text="3\nq\nq\n")
    assert (result.returncode, result.stdout.count("Language model pipeline")) == (0, 2)


def test_every_stage_is_in_a_group_of_the_menu():
    assert sorted(stage.name for stage in main.STAGES) == sorted(
        name for _, names in main.GROUPS for name in names if name in {stage.name for stage in main.STAGES}
    )


def send_wrong_name(terminal: int, keys: bytes) -> str:
    """Answer the menu, and wait for the next question; returns what was shown."""
    os.write(terminal, keys)
    seen = read_until(terminal, "did you mean 'prepare'?")
    while "name:" not in seen.rpartition("did you mean")[2]:
        seen += os.read(terminal, 4096).decode()
    return seen


@pytest.mark.parametrize("variables", [{"TERM": "xterm"}, {"TERM": "dumb"}, {"NO_COLOR": "1"}], ids=str)
def test_arrow_keys_bring_back_answers_in_a_terminal(checkout, tmp_path, monkeypatch, variables):
    for name, value in {"XDG_STATE_HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    pid, terminal = start_in_terminal(checkout)
    read_until(terminal, "name:")
    seen = send_wrong_name(terminal, b"prepair\r") + send_wrong_name(terminal, b"\x1b[A\r")
    os.write(terminal, b"\x04")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "^[[A" not in seen
    assert ("\x1b[33m" in seen) == (variables == {"TERM": "xterm"})


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x04", 0)])
def test_ctrl_c_and_ctrl_d_leave_the_menu(checkout, tmp_path, monkeypatch, key, code):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    pid, terminal = start_in_terminal(checkout)
    read_until(terminal, "name:")
    os.write(terminal, key)
    seen = read_available(terminal)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == code
    assert "saving" not in seen


def answered(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Answer the menu's questions; returns the list that fills with the questions."""
    questions: list[str] = []

    def answer(question: str, **options: object) -> str:
        questions.append(question)
        return answers[len(questions) - 1]

    monkeypatch.setattr(main, "ask", answer)
    return questions


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(0, "is done"), (130, "was interrupted"), (143, "was interrupted"), (1, "failed with exit code 1")],
)
def test_the_menu_says_how_a_stage_ended(monkeypatch, capsys, code, outcome):
    started = []

    def run(stage: main.Stage, arguments: list[str]) -> int:
        started.append((stage.name, arguments))
        return code

    monkeypatch.setattr(main, "run_stage", run)
    questions = answered(monkeypatch, "", "1", "--test", "", "Train", "", "n")
    assert main.main([]) == 0
    said = capsys.readouterr().out
    assert started == [("cleanup", ["--test"]), ("train", [])]
    assert f"cleanup {outcome}\n" in said
    assert "unknown stage ''" not in said
    assert len(questions) == 7


def test_the_menu_survives_a_stage_that_cannot_start(monkeypatch, capsys):
    def fail(stage: main.Stage, arguments: list[str]) -> int:
        raise UsageError("invalid --nproc value 'x'")

    monkeypatch.setattr(main, "run_stage", fail)
    answered(monkeypatch, "train", "--nproc x", "7")
    assert main.main([]) == 0
    assert "error: invalid --nproc value 'x'" in capsys.readouterr().out


def test_the_menu_has_its_groups_and_every_stage(capsys):
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    menu = main._menu_text().strip()
    assert shown[-len(menu.splitlines()) + 2 :] == menu.splitlines()[1:-1]
    numbers = [line.split()[:2] for line in menu.splitlines() if line.startswith("  ")]
    assert numbers[:3] == [["13", "quickstart"], ["15", "doctor"], ["1", "cleanup"]]
    assert numbers[-1] == ["7", "quit"]
    assert len(numbers) == len(main.STAGES) + 1
    assert [line for line in menu.splitlines()[1:] if line and line[0] != " "] == [title for title, _ in main.GROUPS]


def test_tab_completes_the_names_of_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(main, "CHECKOUT", tmp_path)
    assert main._argument_words()[-1] == "latest"
    (tmp_path / "checkpoints" / "run_b").mkdir(parents=True)
    (tmp_path / "checkpoints" / "note.txt").touch()
    assert main._argument_words()[-2:] == ["latest", "run_b"]


def test_menu_says_when_its_input_ends(checkout):
    result = route(checkout, text="3\n")
    assert result.returncode == 2
    assert "input ended" in result.stderr


def test_processes_are_started_through_the_launcher():
    train = next(stage for stage in main.STAGES if stage.name == "train")
    command = main.build_command(train, ["--", "--nproc", "2", "--test"])
    assert command[1:4] == [main.LAUNCHER, "--standalone", "--nproc-per-node=2"]
    assert command[-2:] == [str(ROOT / "train.py"), "--test"]
    assert main.build_command(train, ["--a", "--nproc", "2", "--b"])[-2:] == ["--a", "--b"]
    assert main.build_command(train, ["--a", "--nproc=2", "--b"])[-2:] == ["--a", "--b"]
    assert main.build_command(main.find_stage("sft"), ["--nproc", "2"])[-2:] == ["--nproc", "2"]
    assert main.build_command(train, ["--test", "--nproc=1"])[1:] == [str(ROOT / "train.py"), "--test"]


@pytest.mark.parametrize(("has_option", "expected"), [(True, ["--shutdown-timeout=900"]), (False, [])])
def test_the_launcher_waits_for_saving_where_it_can(tmp_path, has_option, expected):
    launcher = tmp_path / "lib" / "python3.11" / "site-packages" / "torch" / "distributed" / "run.py"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("--shutdown-timeout" if has_option else "")
    python = str(tmp_path / "bin" / "python")
    command = main.build_command(main.find_stage("train"), ["--nproc", "2"], python=python)
    assert command == [python, main.LAUNCHER, "--standalone", "--nproc-per-node=2", *expected, str(ROOT / "train.py")]


@pytest.mark.parametrize(
    ("finished", "code", "said"),
    [
        (Finished(0, [], ""), 0, ""),
        (Finished(3, [signal.SIGTERM], ""), 3, ""),
        (Finished(-signal.SIGINT, [], ""), 130, ""),
        (Finished(-signal.SIGTERM, [], ""), 143, ""),
        (Finished(-signal.SIGSEGV, [], ""), 139, "error: prepare was killed by SIGSEGV\n"),
        (
            Finished(-signal.SIGKILL, [], ""),
            137,
            "error: prepare was killed by SIGKILL (the system may have run out of memory)\n",
        ),
    ],
)
def test_the_exit_code_of_a_killed_stage(monkeypatch, capsys, finished, code, said):
    monkeypatch.setattr(main, "run_process", lambda command, own_group: finished)
    assert main.run_stage(main.find_stage("prepare")) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("code", "signals", "expected"),
    [(1, [signal.SIGTERM], 143), (1, [signal.SIGINT], 130), (0, [signal.SIGINT], 0), (1, [], 1)],
)
def test_the_launcher_reports_the_signal_that_stopped_it(monkeypatch, code, signals, expected):
    grouped = []

    def finish(command: list[str], own_group: bool) -> Finished:
        grouped.append(own_group)
        return Finished(code, signals, "")

    monkeypatch.setattr(main, "run_process", finish)
    assert main.run_stage(main.find_stage("train"), ["--nproc", "2"]) == expected
    assert grouped == [True]


def test_the_checkout_venv_does_not_start_itself_again(monkeypatch, tmp_path):
    installed = tmp_path / ".venv" / "bin" / "python"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(main, "CHECKOUT", tmp_path)
    monkeypatch.setattr(main, "missing_packages", lambda packages: list(packages))
    train = main.STAGES[4]
    assert main.stage_python(train) == sys.executable
    installed.touch()
    assert main.stage_python(train) == str(installed)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert main.stage_python(train) == sys.executable


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_a_wrong_number_of_processes_is_a_usage_error(value):
    train = next(stage for stage in main.STAGES if stage.name == "train")
    with pytest.raises(UsageError, match="expected a number of processes"):
        main.build_command(train, ["--nproc", value])


def test_numbers_and_names_are_the_ones_people_know():
    first_six = ["cleanup", "tokenize", "prepare", "fineweb", "train", "inference"]
    assert [stage.name for stage in main.STAGES[:6]] == first_six
    assert [stage.number for stage in main.STAGES] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]


def test_menu_imports_nothing_heavy():
    script = "import sys, main; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True).stdout.split()
    ours = {"main", "utils"}
    # "sitecustomize"-like modules come from the installation, not from us
    foreign = {name for name in names if name not in sys.stdlib_module_names and not name.startswith(("_", "site"))}
    assert foreign <= ours | {"google", "mpl_toolkits", "distutils"}
