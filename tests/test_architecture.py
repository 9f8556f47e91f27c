"""The import rule for every file, what each kind of stage may load, and required docstrings."""

import ast
import subprocess
import sys

import pytest

import main
from checks.import_graph import (
    CHECKOUT,
    circles,
    file_of,
    imported_modules,
    reachable,
    read_graph,
    source_files,
    violations,
)

SOURCES = source_files(CHECKOUT)
DOORS = sorted(path.name for path in CHECKOUT.glob("*.py"))
DATA_STAGES = ("cleaner.py", "tokenizer.py", "dataset_prep.py", "fineweb_prep.py", "lima_tokenizer.py")
READERS = ("Inference.py", "server.py", "export.py")
# Allowed imports of `train.py`, `model.py` and `dataloader.py` at start-up.
TRAINING_PACKAGES = {"torch", "numpy", "tqdm", "tensorboard"}
OURS = {"pipeline", "utils", *(name.removesuffix(".py") for name in DOORS)}


def packages(names: frozenset[str] | set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_imports_only_go_down():
    assert violations(read_graph()) == []


def test_no_imports_go_in_a_circle():
    assert circles(read_graph()) == []


@pytest.mark.parametrize("name", DATA_STAGES)
def test_data_stages_never_reach_torch(name):
    assert not packages(reachable(name)) & {"torch", "model", "dataloader"}


@pytest.mark.parametrize("name", READERS)
def test_readers_never_reach_training_or_the_loader(name):
    files = {file_of(module) for module in reachable(name)} - {None}
    rooms = {path.parent.name for path in files if path.name != "config.py"}
    assert not rooms & {"training", "dataloading"}
    assert not packages(reachable(name)) & {"dataloader", "train"}


@pytest.mark.parametrize("name", ["train.py", "model.py", "dataloader.py"])
def test_training_starts_with_four_packages_installed(name):
    assert packages(reachable(name, top_only=True)) <= TRAINING_PACKAGES | OURS


@pytest.mark.parametrize("name", sorted({stage.script for stage in main.STAGES}))
def test_stages_start_without_a_single_package(name):
    assert not packages(reachable(name, top_only=True)) - OURS


@pytest.mark.parametrize("stage", main.STAGES, ids=lambda stage: stage.name)
def test_the_router_knows_what_each_stage_imports(stage):
    names = reachable(stage.script)
    logs = {"tensorboard"} if "torch.utils.tensorboard" in names and stage.name != "quickstart" else set()
    imported = packages(names) & pinned_packages() - WITHOUT_WHICH_ALL_STAGES_RUN | logs
    assert imported <= set(stage.packages)
    if stage.name not in ("quickstart", "doctor"):  # one runs the others, one examines what they need
        assert set(stage.packages) <= imported


WITHOUT_WHICH_ALL_STAGES_RUN = {"rich", "prompt_toolkit"}  # utils.terminal asks whether they are installed


def pinned_packages() -> set[str]:
    """The packages in requirements.txt, by import name."""
    lines = (CHECKOUT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0].replace("-", "_") for line in lines if "==" in line}


def test_the_router_needs_only_the_standard_library():
    ours = {name for name in imported_modules(CHECKOUT / "main.py") if file_of(name)}
    assert {name.split(".")[0] for name in ours} <= {"utils"}
    assert packages(reachable("main.py", top_only=True)) <= {"utils"}


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("pipeline/*/config.py")), ids=lambda path: path.parent.name)
def test_a_config_section_imports_options_only(path):
    assert {name for name in imported_modules(path) if file_of(name)} <= {"utils.options"}


def test_no_file_shadows_a_package():
    taken = {name.lower() for name in sys.stdlib_module_names}
    taken |= {"evaluate", "datasets", "tokenizers", "transformers", "numpy", "torch", "inference"}
    folders = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")}
    assert not {name for name in {path.stem for path in CHECKOUT.glob("*.py")} | folders if name in taken}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no module docstring"


def test_importing_every_stage_does_nothing():
    names = ", ".join(name.removesuffix(".py") for name in DOORS)
    result = subprocess.run([sys.executable, "-c", f"import {names}"], cwd=CHECKOUT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
