"""Classes of changes that cannot matter to a user, each with its reason; `checks/mutants.py` never draws them.

    python -m checks.mutants --rules               # how many changes each rule excludes

A rule must not hide anything that decides a result, the content of a file, an exit code or a limit.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# These run on a graphics card only, or describe the trial models and data for it.
GPU_FILES = (
    "pipeline/doctor/gpu/memory.py",
    "pipeline/doctor/gpu/speed.py",
    "pipeline/doctor/gpu/step_process.py",
    "pipeline/doctor/gpu/synthetic_run.py",
    "pipeline/doctor/gpu/train_step_contenders.py",
    "pipeline/doctor/gpu/training_runs.py",
    "pipeline/doctor/gpu/trial.py",
)
# Compiling takes half a minute, so only `make test-slow` compares the results with the model's.
SLOW_FILES = ("pipeline/generation/compiled_decode.py",)
WAITS = {"sleep", "wait", "join", "wait_for"}


@dataclass(frozen=True)
class Site:
    """Where a change is: the file, the changed node, and the nodes around it, innermost first."""

    file: str
    node: ast.AST
    around: Sequence[ast.AST]

    @property
    def keyword(self) -> str | None:
        """The name of the keyword argument whose value the node is."""
        parent = self.around[0] if self.around else None
        return parent.arg if isinstance(parent, ast.keyword) else None

    @property
    def called(self) -> str | None:
        """The name of the innermost function that the node is an argument of."""
        for outer in self.around:
            if isinstance(outer, ast.Call):
                return name_of(outer.func)
        return None

    def is_bool(self, value: bool | None = None) -> bool:
        node = self.node
        return (
            isinstance(node, ast.Constant) and isinstance(node.value, bool) and (value is None or node.value is value)
        )

    def is_number(self) -> bool:
        return isinstance(self.node, ast.Constant) and not isinstance(self.node.value, bool)

    def inside(self, *kinds: type[ast.AST]) -> bool:
        return any(isinstance(outer, kinds) for outer in self.around)


@dataclass(frozen=True)
class Rule:
    name: str
    reason: str
    applies: Callable[[Site], bool]


def name_of(function: ast.expr) -> str | None:
    """``sleep`` for both ``sleep`` and ``time.sleep``."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def _is_config_default(site: Site) -> bool:
    return site.file.endswith("/config.py")


def _needs_gpu(site: Site) -> bool:
    return site.file in GPU_FILES


def _is_slow(site: Site) -> bool:
    return site.file in SLOW_FILES


def _is_dataclass_option(site: Site) -> bool:
    options = {"frozen", "slots", "kw_only", "repr"}
    return site.is_bool() and site.keyword in options and site.called in {"dataclass", "field"}


def _is_zip_check(site: Site) -> bool:
    return site.is_bool(True) and site.keyword == "strict" and site.called == "zip"


def _is_message_length(site: Site) -> bool:
    if not site.is_number():
        return False
    shortened = site.keyword == "longest" and site.called == "one_line"
    return shortened or (site.inside(ast.Slice) and site.inside(ast.JoinedStr) and site.inside(ast.Raise))


def _is_wait(site: Site) -> bool:
    parent = site.around[0] if site.around else None
    argument = isinstance(parent, ast.Call) and name_of(parent.func) in WAITS
    return site.is_number() and (argument or site.keyword == "timeout")


def _is_layout(site: Site) -> bool:
    options = {"indent", "fontsize", "markersize", "linewidth", "frameon", "alpha", "dpi", "break_on_hyphens"}
    columns = site.called == "range" or site.called == "format_table"
    return any(
        isinstance(outer, ast.keyword) and (outer.arg in options or (outer.arg == "right" and columns))
        for outer in site.around[:2]
    )


def _is_version_number(site: Site) -> bool:
    parent = site.around[0] if site.around else None
    targets = parent.targets if isinstance(parent, ast.Assign) else []
    return site.is_number() and any((name_of(target) or "").endswith("_VERSION") for target in targets)


RULES = (
    Rule(
        "configuration defaults",
        "defaults and bounds of config.py are compared with config.json, which detects every change",
        _is_config_default,
    ),
    Rule("graphics card only", "the code measures a graphics card and cannot run without one", _needs_gpu),
    Rule("slow tests only", "only the slow tests compile the code, and compare it with the model", _is_slow),
    Rule(
        "dataclass options",
        "frozen, slots, kw_only and repr restrict the programmer, and mypy checks what they forbid",
        _is_dataclass_option,
    ),
    Rule(
        "zip(strict=True)",
        "an assertion that lengths are equal; it changes nothing while they are",
        _is_zip_check,
    ),
    Rule("message lengths", "where an error message shortens the text that it quotes", _is_message_length),
    Rule("waits", "how long the program sleeps or waits before it looks again", _is_wait),
    Rule("layout", "indentation, alignment and the sizes in a chart", _is_layout),
    Rule(
        "version numbers",
        "any number serves to tell formats apart; that another one is refused is tested",
        _is_version_number,
    ),
)


def rule_for(site: Site) -> Rule | None:
    """The first rule that excludes a change, or None if it must be detected."""
    return next((rule for rule in RULES if rule.applies(site)), None)


def sites(file: str, tree: ast.AST) -> Iterator[Site]:
    """Every node of a module with the nodes around it, breadth first as `ast.walk`."""
    pending: list[Site] = [Site(file, tree, ())]
    for site in pending:
        yield site
        pending += [Site(file, node, (site.node, *site.around)) for node in ast.iter_child_nodes(site.node)]
