"""Who may know whom: the imports of every file, parsed, against the design."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import main

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
SHARED = {"tokenizer", "model", "dataloader", "loading"}
# Each room's own modules, beside the stage that they serve.
PACKAGES = sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("utils", "tests"))
STAGES = sorted(TOP_LEVEL.keys() - SHARED - {"main"})
SOURCES = [
    *TOP_LEVEL.values(),
    *(path for folder in [ROOT / "utils", *PACKAGES] for path in sorted(folder.glob("*.py"))),
]
DATA_STAGES = sorted({"cleaner", "tokenizer", "dataset_prep", "fineweb_prep", "lima_tokenizer"} & TOP_LEVEL.keys())
READERS = sorted({"Inference", "server", "export"} & TOP_LEVEL.keys())
# What `train.py`, `model.py` and `dataloader.py` may import before anything runs.
TRAINING_PACKAGES = {"torch", "numpy", "tqdm", "tensorboard", "utils", "pretraining"} | SHARED
EXCEPTIONS = {("Inference", "benchmark")}


def imported_modules(path: Path, *, top_only: bool = False) -> set[str]:
    """The full names that `path` imports; with `top_only` those outside functions, which run when it is imported."""
    return _imports(ast.parse(path.read_text(encoding="utf-8")).body, top_only)


def _imports(nodes: list, top_only: bool) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif _is_type_checking(node) or (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            continue
        else:
            names |= _imports(list(ast.iter_child_nodes(node)), top_only)
    return names


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def file_of(name: str) -> Path | None:
    """The project's file of a module's full name; None for foreign modules and for names inside a module."""
    for path in (ROOT / f"{name.replace('.', '/')}.py", ROOT / name.replace(".", "/") / "__init__.py"):
        if path.exists():
            return path
    return None


@cache
def reachable(start: Path, *, top_only: bool = False) -> frozenset[str]:
    """Everything that `start` imports, directly or through the project's files."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imported_modules(waiting.pop(), top_only=top_only) - seen:
            seen.add(name)
            path = file_of(name)
            if path:
                waiting.append(path)
    return frozenset(seen)


def packages(names: frozenset[str] | set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", sorted((ROOT / "utils").rglob("*.py")), ids=lambda path: path.stem)
def test_utils_import_no_top_level_module(path):
    assert not packages(imported_modules(path)) & TOP_LEVEL.keys()


@pytest.mark.parametrize("path", [path for folder in PACKAGES for path in sorted(folder.glob("*.py"))], ids=str)
def test_rooms_import_no_stage(path):
    assert not packages(imported_modules(path)) & (TOP_LEVEL.keys() - SHARED)


@pytest.mark.parametrize("name", sorted(SHARED & TOP_LEVEL.keys()))
def test_shared_rooms_import_only_utils(name):
    allowed = {"tokenizer", "model"} if name == "loading" else set()
    assert packages(imported_modules(TOP_LEVEL[name])) & TOP_LEVEL.keys() <= allowed


@pytest.mark.parametrize("name", STAGES)
def test_stages_do_not_import_each_other(name):
    ours = packages(imported_modules(TOP_LEVEL[name])) & TOP_LEVEL.keys()
    assert not {other for other in ours - SHARED if (name, other) not in EXCEPTIONS}


@pytest.mark.parametrize("name", DATA_STAGES)
def test_data_stages_never_reach_torch(name):
    assert not {each for each in reachable(TOP_LEVEL[name]) if each.split(".")[0] in ("torch", "model", "dataloader")}


@pytest.mark.parametrize("name", READERS)
def test_inference_server_and_export_never_reach_the_trainer_or_the_loader(name):
    assert not reachable(TOP_LEVEL[name]) & {"pipeline.training.trainer", "dataloader", "train"}


@pytest.mark.parametrize("name", sorted({"train", "model", "dataloader"} & TOP_LEVEL.keys()))
def test_training_starts_with_four_packages_installed(name):
    assert packages(reachable(TOP_LEVEL[name], top_only=True)) <= TRAINING_PACKAGES


@pytest.mark.parametrize("name", STAGES)
def test_stages_start_without_a_single_package(name):
    ours = TOP_LEVEL.keys() | {path.name for path in PACKAGES} | {"utils"}
    assert not packages(reachable(TOP_LEVEL[name], top_only=True)) - ours


@pytest.mark.parametrize("stage", main.STAGES, ids=lambda stage: stage.name)
def test_the_router_knows_what_each_stage_imports(stage):
    names = reachable(TOP_LEVEL[Path(stage.script).stem])
    logs = {"tensorboard"} if "torch.utils.tensorboard" in names and stage.name != "quickstart" else set()
    imported = packages(names) & pinned_packages() | logs
    assert imported <= set(stage.packages)
    if stage.name != "quickstart":  # which runs the others
        assert set(stage.packages) <= imported


def pinned_packages() -> set[str]:
    """What requirements.txt asks for, by the names that are imported."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0].replace("-", "_") for line in lines if "==" in line}


def test_the_router_imports_the_standard_library_and_small_modules():
    ours = {name for name in imported_modules(TOP_LEVEL["main"]) if file_of(name)}
    assert ours <= {"utils.cli", "utils.terminal", "utils.errors", "utils.packages", "utils.processes"}
    assert packages(reachable(TOP_LEVEL["main"], top_only=True)) <= {"utils"}


def test_no_file_shadows_a_package():
    taken = {name.lower() for name in sys.stdlib_module_names}
    taken |= {"evaluate", "datasets", "tokenizers", "transformers", "numpy", "torch", "inference"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert not {name for name in TOP_LEVEL.keys() | folders if name in taken}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_files_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(ast.parse(text)), f"{path.name} does not say what it is for"


def test_importing_every_stage_does_nothing():
    names = ", ".join(sorted(TOP_LEVEL))
    result = subprocess.run([sys.executable, "-c", f"import {names}"], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
