"""Every script from the outside: fast answers without imports, and errors for missing packages."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import main
from utils.cli import exit_code_of
from utils.packages import is_installed

ROOT = Path(main.__file__).resolve().parent
SCRIPTS = [stage.script for stage in main.STAGES]
# Required arguments of the stages.
NEEDED = {"post_training.py": ["--checkpoint", "latest"], "export.py": ["--checkpoint", "latest", "--output", "out"]}
# Runs a script once for each list of arguments; prints its exit codes and the third-party modules it imported.
PROBE = """
import contextlib, io, json, runpy, sys
script, runs = sys.argv[1], json.loads(sys.argv[2])
before, codes = set(sys.modules), []
for arguments in runs:
    sys.argv = [script, *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as leaving:
        codes.append(leaving.code)
names = {name.partition(".")[0] for name in set(sys.modules) - before} - {"__mp_main__", *sys.stdlib_module_names}
print(json.dumps([codes, sorted(names)]))
"""
OURS = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}


def run_python(python: Path | str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory) -> Path:
    """A Python without any packages."""
    folder = tmp_path_factory.mktemp("bare") / "environment"
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def numpy_python(tmp_path_factory) -> Path:
    """A Python whose only package is (a fake) NumPy."""
    folder = tmp_path_factory.mktemp("numpy_only") / "environment"
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "numpy").mkdir()
    (packages / "numpy" / "__init__.py").write_text("class ndarray: ...\n")
    return folder / "bin" / "python"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_usage_errors_import_no_packages(script):
    needed = NEEDED.get(script, [])
    runs = [
        ["--help"],
        ["--no-such-option"],
        [*needed, "--set", "training.no_such_key=1"],
        [*needed, "--set", "training.batch_size=none"],
    ]
    result = run_python(sys.executable, "-c", PROBE, ROOT / script, json.dumps(runs))
    codes, names = json.loads(result.stdout)
    assert codes == [0, 2, 1, 1]
    assert not set(names) - OURS


def arguments_that_need_packages(script: str, folder: Path) -> list[str]:
    """Arguments with which a script gets past missing files."""
    (folder / "tokenizer.json").write_text("{}")
    (folder / "raw.jsonl").write_text('{"title": "a", "text": "b"}\n')
    settings = [f"paths.tokenizer_dir={folder}", f"paths.checkpoint_dir={folder}", f"paths.cleaned_dir={folder}"]
    own = {
        "cleaner.py": ["--input", str(folder / "raw.jsonl")],
        "Inference.py": ["--checkpoint", "latest", "--prompt", "a"],
        "benchmark.py": ["--offline-samples"],
        "server.py": ["--port", "0"],
        "model.py": ["--summary"],
        "doctor.py": ["--gpu", "--rehearse"],  # it answers without packages otherwise
        **NEEDED,
    }
    return [*own.get(script, []), *(word for setting in settings for word in ("--set", setting))]


@pytest.mark.parametrize("script", [*SCRIPTS, "model.py"])
def test_script_without_packages_says_what_to_run(script, bare_python, tmp_path):
    refused_for(script, bare_python, tmp_path)


@pytest.mark.parametrize("script", ["train.py", "Inference.py", "post_training.py", "export.py"])
def test_numpy_alone_is_not_mistaken_for_everything(script, numpy_python, tmp_path):
    assert refused_for(script, numpy_python, tmp_path) == "torch"


def refused_for(script: str, python: Path, folder: Path) -> str:
    """The missing package that `script` reports."""
    result = run_python(python, ROOT / script, *arguments_that_need_packages(script, folder), cwd=folder)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    advice = re.fullmatch(r"error: .*the package (\w+) is not installed for .*; run: make install, then: (.*)", last)
    assert advice, result.stderr
    assert advice[2] == f".venv/bin/python {script}"
    assert "Traceback" not in result.stderr
    return advice[1]


def test_launcher_without_torch_says_what_to_run(bare_python):
    result = run_python(bare_python, main.LAUNCHER, "--standalone", "--nproc-per-node=2", ROOT / "train.py")
    assert result.returncode == 1
    assert result.stderr.startswith("error: the package torch is not installed")


def test_missing_module_of_our_own_stays_a_bug(capsys):
    def forgetful() -> None:
        import utils.forgotten  # noqa: F401

    assert exit_code_of(forgetful) == 1
    assert "this is a bug" in capsys.readouterr().err


def test_folder_without_code_is_not_a_package(tmp_path, monkeypatch, capsys):
    (tmp_path / "only_a_folder" / "tokenizer").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)

    def misled() -> None:
        from only_a_folder import Tokenizer  # noqa: F401

    assert not is_installed("only_a_folder")
    assert exit_code_of(misled) == 1
    assert "the package only_a_folder is not installed" in capsys.readouterr().err
