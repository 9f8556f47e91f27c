"""Read the imports of every file and report violations of the import rule.

    for violation in violations(read_graph(CHECKOUT)):
        print(violation)

Imports only go down through the layers below. Rooms in the same layer do not import each other, except in layers of
shared rooms. `tests/test_architecture.py` enforces this; `checks/architecture_picture.py` draws it.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Layer:
    """A layer of rooms. `shared`: its rooms may import each other, but not in a cycle."""

    name: str
    rooms: tuple[str, ...]
    shared: bool = False


# From top to bottom. A room is a script at the root, a folder in pipeline/, or utils.
LAYERS = (
    Layer("router", ("main",)),
    Layer(
        "doors",
        (
            "cleaner",
            "dataset_prep",
            "fineweb_prep",
            "train",
            "lima_tokenizer",
            "post_training",
            "Inference",
            "server",
            "benchmark",
            "export",
            "quickstart",
            "doctor",
            "runs",
        ),
    ),
    Layer(
        "stage rooms",
        (
            "pipeline/cleaning",
            "pipeline/preparation",
            "pipeline/tuning",
            "pipeline/console",
            "pipeline/serving",
            "pipeline/evaluation",
            "pipeline/exporting",
            "pipeline/demo",
            "pipeline/doctor",
            "pipeline/runs",
        ),
    ),
    Layer("training", ("pipeline/training",)),
    Layer("generation", ("pipeline/generation",)),
    Layer("core doors", ("tokenizer", "dataloader", "model")),
    Layer(
        "core rooms",
        (
            "pipeline/tokenization",
            "pipeline/dataloading",
            "pipeline/modeling",
            "pipeline/formats",
            "pipeline/jobs",
            "pipeline/web",
        ),
        shared=True,
    ),
    Layer("ground floor", ("pipeline/configuration", "utils"), shared=True),
)
# `model.generate` is the only upward import; it happens inside the method.
ALLOWED_UPWARDS = {("model.py", "pipeline/generation/generate.py")}

Graph = Mapping[str, frozenset[str]]


def source_files(root: Path) -> list[Path]:
    """The project's own modules: the scripts at the root, pipeline/ and utils/."""
    return [*sorted(root.glob("*.py")), *sorted(root.glob("pipeline/**/*.py")), *sorted(root.glob("utils/*.py"))]


def read_graph(root: Path = CHECKOUT) -> Graph:
    """For each file, relative to `root`, the project files that it imports, including in functions and for types."""
    graph = {}
    for path in source_files(root):
        imported = {file_of(name, root) for name in imported_modules(path)} - {None}
        name = path.relative_to(root).as_posix()
        graph[name] = frozenset(file.relative_to(root).as_posix() for file in imported if file) - {name}
    return graph


@cache
def imported_modules(path: Path, *, top_only: bool = False) -> frozenset[str]:
    """The full names imported by `path`; with `top_only`, only those outside functions, which run on import."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8")).body, top_only))


def _imports(nodes: Iterable[ast.AST], top_only: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif top_only and (_is_type_checking(node) or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            continue
        else:
            yield from _imports(ast.iter_child_nodes(node), top_only)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def file_of(name: str, root: Path = CHECKOUT) -> Path | None:
    """The project file of a module, or None for other packages and for names inside a module."""
    path = root / f"{name.replace('.', '/')}.py"
    return path if path.exists() else None


def room_of(file: str) -> str:
    """``pipeline/training/trainer.py`` → ``pipeline/training``, ``train.py`` → ``train``."""
    parts = file.removesuffix(".py").split("/")
    if _is_ground_floor(file):
        return "pipeline/configuration"
    return "/".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def _is_ground_floor(file: str) -> bool:
    """The configuration: the files next to the rooms, and each room's own section."""
    folders, _, name = file.rpartition("/")
    return folders == "pipeline" or (folders.startswith("pipeline/") and name == "config.py")


def layer_of(room: str) -> int:
    """The layer's index in `LAYERS`.

    Raises:
        ValueError: the room is not in `LAYERS`.
    """
    for index, layer in enumerate(LAYERS):
        if room in layer.rooms:
            return index
    raise ValueError(f"{room} is not in any layer; add it to LAYERS in checks/import_graph.py")


def violations(graph: Graph) -> list[str]:
    """One line for each import that goes up, or sideways between rooms that must not import each other."""
    found = []
    for file, imported in sorted(graph.items()):
        if file == "pipeline/__init__.py" or file.endswith("/__init__.py"):
            continue
        for target in sorted(imported):
            problem = _problem(file, target)
            if problem and (file, target) not in ALLOWED_UPWARDS:
                found.append(f"{file} imports {target}: {problem}")
    return found


def _problem(file: str, target: str) -> str:
    room, target_room = room_of(file), room_of(target)
    level, target_level = layer_of(room), layer_of(target_room)
    if target_level < level:
        return f"{LAYERS[level].name} must not import {LAYERS[target_level].name}"
    if target_level == level and room != target_room and not LAYERS[level].shared:
        return f"{LAYERS[level].name} do not import each other"
    return ""


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """All groups of files that import each other in a cycle (Tarjan's strongly connected components)."""
    allowed = {file: imported - _upwards_from(file) for file, imported in graph.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(file: str) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for target in sorted(allowed.get(file, frozenset())):
            if target not in index:
                visit(target)
                low[file] = min(low[file], low[target])
            elif target in stack:
                low[file] = min(low[file], index[target])
        if low[file] == index[file]:
            place = stack.index(file)
            component = tuple(sorted(stack[place:]))
            del stack[place:]
            if len(component) > 1:
                found.append(component)

    for file in sorted(allowed):
        if file not in index:
            visit(file)
    return found


def _upwards_from(file: str) -> frozenset[str]:
    return frozenset(target for source, target in ALLOWED_UPWARDS if source == file)


def reachable(start: str, graph_root: Path = CHECKOUT, *, top_only: bool = False) -> frozenset[str]:
    """The full names of everything that the file `start` imports, directly or through project files."""
    seen: set[str] = set()
    waiting = [graph_root / start]
    while waiting:
        for name in imported_modules(waiting.pop(), top_only=top_only) - seen:
            seen.add(name)
            path = file_of(name, graph_root)
            if path:
                waiting.append(path)
    return frozenset(seen)
