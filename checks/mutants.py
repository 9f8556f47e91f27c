"""Mutation testing: change one token at a time, run the tests that execute it, and report undetected changes.

    python -m checks.mutants                       # 300 changes drawn with seed 1, two at a time; or: make mutants
    python -m checks.mutants --seed 7 --count 50 pipeline/serving
    python -m checks.mutants --record /tmp/record.tsv      # keeps the recording for the next run
    python -m checks.mutants --show                # lists the changes without running anything
    python -m checks.mutants --rules               # what is never drawn, and why

A change is a comparison, an operator, a number, a boolean or a condition. First, the whole suite runs once under
`checks/recorder`, which records the functions that each test executes. Then each change is made in a copy of the
checkout, and the tests that execute the changed function run against it, most specific first. Changes that cannot
matter are never drawn: classes of them are rules in checks/mutant_rules.py, single ones lines in
checks/mutants_accepted.txt, each with its reason. The exit code is 1 if fewer than 95% are detected.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from checks.import_graph import CHECKOUT, source_files
from checks.mutant_rules import RULES, Rule, name_of, rule_for, sites

ACCEPTED = CHECKOUT / "checks" / "mutants_accepted.txt"
RECORDER = CHECKOUT / "checks" / "recorder"
BUDGET = 0.05  # share of the suite's time available to the tests of one change
MAX_TESTS = 100
TIMEOUT_SECONDS = 240
AIM = 0.95
PRELOADED = ("torch", "numpy", "pytest", "hypothesis", "tokenizers", "httpx", "fastapi", "uvicorn", "pyarrow")
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "//",
}


@dataclass(frozen=True)
class Mutant:
    """A change: replaces the source between two byte offsets of a file."""

    file: str
    line: int
    start: int
    end: int
    new: str
    source_line: str
    rule: Rule | None = None  # why it cannot matter

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    @property
    def place(self) -> str:
        """The file and the text of the line, which are stable when lines are added above."""
        return f"{self.file}: {self.source_line}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source_line} → {self.new}"


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Every possible change in a module, in source order."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + column

    for site in sites(file, ast.parse(source)):
        node, rule = site.node, rule_for(site)

        def mutant(node: ast.expr, start: int, end: int, new: str, rule: Rule | None = rule) -> Mutant:
            return Mutant(file, node.lineno, start, end, new, lines[node.lineno - 1].decode().strip(), rule)

        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            left, right = node.left, node.comparators[0]
            gap = offset(left.end_lineno or 0, left.end_col_offset or 0), offset(right.lineno, right.col_offset)
            yield from _swap(mutant, node, source, gap, COMPARISONS[type(node.ops[0])])
        elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_text(node):
            gap = (
                offset(node.left.end_lineno or 0, node.left.end_col_offset or 0),
                offset(node.right.lineno, node.right.col_offset),
            )
            yield from _swap(mutant, node, source, gap, OPERATORS[type(node.op)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            span = offset(node.lineno, node.col_offset), offset(node.end_lineno or 0, node.end_col_offset or 0)
            yield mutant(node, *span, str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            span = offset(node.lineno, node.col_offset), offset(node.end_lineno or 0, node.end_col_offset or 0)
            yield mutant(node, *span, str(node.value + 1))
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)) and ast.unparse(node.test) != "TYPE_CHECKING":
            test = node.test
            span = offset(test.lineno, test.col_offset), offset(test.end_lineno or 0, test.end_col_offset or 0)
            yield mutant(test, *span, f"(not ({source[slice(*span)].decode()}))")


def _swap(
    mutant: Callable[[ast.expr, int, int, str], Mutant], node: ast.expr, source: bytes, gap: tuple[int, int], new: str
) -> Iterator[Mutant]:
    """The operator between two operands, without surrounding brackets and spaces."""
    between = source[slice(*gap)].decode()
    old = between.strip(" ()\n\\")
    if old and "#" not in between and between.count(old) == 1:
        start = gap[0] + len(between[: between.index(old)].encode())
        yield mutant(node, start, start + len(old.encode()), new)


def _is_text(node: ast.BinOp) -> bool:
    """Whether this is string concatenation, where a minus is a TypeError and proves nothing."""
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def accepted_lines() -> dict[str, str]:
    """``FILE: SOURCE LINE``, with or without ``→ CHANGE``, and why it cannot matter."""
    entries = {}
    for line in ACCEPTED.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition("  # because ")
            entries[place.strip()] = reason
    return entries


def draw(places: Sequence[str], *, count: int, seed: int) -> list[Mutant]:
    """Draw `count` changes in the files below `places`, in proportion to file size."""
    accepted = accepted_lines()
    possible = [
        mutant
        for mutant in all_mutants(places)
        if not mutant.rule and not {mutant.place, f"{mutant.place} → {mutant.new}"} & accepted.keys()
    ]
    return random.Random(seed).sample(possible, min(count, len(possible)))


def all_mutants(places: Sequence[str]) -> Iterator[Mutant]:
    for path in source_files(CHECKOUT):
        name = path.relative_to(CHECKOUT).as_posix()
        if not places or name.startswith(tuple(places)):
            yield from mutants_of(name, path.read_bytes())


def show_rules(places: Sequence[str]) -> None:
    """How many changes each rule and the list of accepted lines exclude."""
    mutants = list(all_mutants(places))
    excluded = Counter(mutant.rule.name for mutant in mutants if mutant.rule)
    for rule in RULES:
        print(f"{excluded[rule.name]:6} {rule.name}: {rule.reason}")
    drawn = len(draw(places, count=len(mutants), seed=0))
    print(f"{len(mutants) - excluded.total() - drawn:6} accepted lines: {ACCEPTED.relative_to(CHECKOUT)}")
    print(f"{drawn:6} of {len(mutants)} changes are left to be drawn")


@dataclass(frozen=True)
class Record:
    """A recording: which tests execute a function, how long they take, and how many functions they reach."""

    tests_of_function: Mapping[tuple[str, int], set[str]]  # (file, first line) → tests
    seconds: Mapping[str, float]
    reach: Mapping[str, int] = field(repr=False)  # the number of functions a test executes

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests to run for a change; empty if none executes it.

        Tests in files that import the module come first, then those that execute the fewest functions. Of a
        parametrized test, one case runs before other tests and the remaining cases after them.
        """
        chosen: list[str] = []
        budget = BUDGET * sum(self.seconds.values())
        cases: Counter[str] = Counter()
        order: list[tuple[bool, bool, int, int, str]] = []
        for test in sorted(self._executing(mutant), key=lambda test: (self.reach[test], test)):
            name = test.partition("[")[0]
            cases[name] += 1
            is_far = not imports(name.partition("::")[0], mutant.file)
            order.append((cases[name] > 1, is_far, cases[name], self.reach[test], test))
        for *_, test in sorted(order):
            seconds = self.seconds.get(test, 0.0)
            if len(chosen) < MAX_TESTS and (not chosen or seconds <= budget):
                chosen.append(test)
                budget -= seconds
        return chosen

    def _executing(self, mutant: Mutant) -> set[str]:
        for first_line in enclosing_functions(CHECKOUT / mutant.file, mutant.line):
            return self.tests_of_function.get((mutant.file, first_line), set())
        # Outside functions: the tests that use the name, or whose functions do, or those of the whole module.
        name = assigned_name(CHECKOUT / mutant.file, mutant.line)
        users = [function for function in functions_using(name) if function in self.tests_of_function] if name else []
        module = [function for function in self.tests_of_function if function[0] == mutant.file]
        return set().union(*(self.tests_of_function[function] for function in users or module))


def enclosing_functions(path: Path, line: int) -> list[int]:
    """The first lines of the functions around a line, innermost first."""
    functions = [
        (node.end_lineno - first, first)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno
        for first in [first_line_of(node)]
        if first <= line <= node.end_lineno
    ]
    return [first for _, first in sorted(functions)]


@cache
def imports(test_file: str, module_file: str) -> bool:
    """Whether a test file names a module, or imports it from its package."""
    module = module_file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package, _, name = module.rpartition(".")
    path = CHECKOUT / test_file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if package:
        return module in text or re.search(rf"from {package} import .*\b{name}\b", text) is not None
    return re.search(rf"^(import|from) {name}\b", text, re.MULTILINE) is not None


def first_line_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def assigned_name(path: Path, line: int) -> str | None:
    """The constant or field that is assigned on a line outside functions."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.lineno <= line <= (node.end_lineno or 0):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            return name_of(target)
    return None


def functions_using(name: str) -> list[tuple[str, int]]:
    """The functions (file, first line) whose code mentions a name, an attribute or a keyword."""
    return _users_of_names()[name]


@cache
def _users_of_names() -> Mapping[str, list[tuple[str, int]]]:
    users: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path in [*source_files(CHECKOUT), *CHECKOUT.glob("tests/*.py")]:
        file = path.relative_to(CHECKOUT).as_posix()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for name in _names_in(node):
                    users[name].append((file, first_line_of(node)))
    return users


def _names_in(function: ast.AST) -> set[str]:
    names = {node.arg for node in ast.walk(function) if isinstance(node, ast.keyword) and node.arg}
    return names | {
        name
        for node in ast.walk(function)
        if isinstance(node, (ast.Name, ast.Attribute))
        for name in [name_of(node)]
        if name
    }


def read_record(path: Path) -> Record:
    tests_of_function: dict[tuple[str, int], set[str]] = defaultdict(set)
    tests_of_file: dict[str, set[str]] = defaultdict(set)
    seconds: dict[str, float] = defaultdict(float)
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    failed = {line[1] for line in lines if line[0] == "failed"}
    for line in lines:
        if line[0] == "seconds":
            seconds[line[1]] += float(line[2])
            tests_of_file[line[1].partition("::")[0]].add(line[1])
    for line in lines:
        if line[0] == "executed":
            _, test, phase, file, first_line = line
            # Code executed by a shared fixture counts for every test in the file.
            tests = tests_of_file[test.partition("::")[0]] if phase == "fixture" else {test}
            tests_of_function[file, int(first_line)] |= tests - failed
    reach: dict[str, int] = defaultdict(int)
    for tests in tests_of_function.values():
        for test in tests:
            reach[test] += 1
    return Record(tests_of_function, seconds, reach)


def make_record(path: Path, *, workers: int) -> None:
    """Run the suite in a copy of the checkout and record what each test executes."""
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_checkout(Path(folder).resolve() / "copy")
        path.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "RECORD_ROOT": str(copy),
            "RECORD_FILE": str(path.resolve()),
            "PYTHONPATH": str(RECORDER),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "-p", "sitecustomize", "-p"]
        command += ["no:cacheprovider", "--timeout=900"]
        subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, check=False)


def is_noticed(mutant: Mutant, tests: Sequence[str], copies: Path) -> bool:
    """Whether any of `tests` fails with the change in this process's copy of the checkout."""
    copy = copies / str(os.getpid())
    if not copy.exists():
        copy_checkout(copy)
    target = copy / mutant.file
    original = target.read_bytes()
    target.write_bytes(mutant.apply(original))
    try:
        process = multiprocessing.get_context("fork").Process(target=_run_tests, args=(copy, tests))
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        return process.exitcode != 0
    finally:
        target.write_bytes(original)


def _run_tests(copy: Path, tests: Sequence[str]) -> None:
    """Run in a forked process, which inherits the packages that take long to import."""
    os.setsid()
    os.chdir(copy)
    sys.path[:] = [str(copy), *(place for place in sys.path if place not in ("", str(CHECKOUT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "checks"]:
        del sys.modules[name]
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    import pytest

    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def preload() -> None:
    """Import slow packages once, so that the forked processes inherit them, but no module of the project."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    for name in PRELOADED:
        importlib.import_module(name)


def run(mutants: Sequence[Mutant], record: Record, *, workers: int) -> list[Mutant]:
    """Try all changes; print the survivors as they are found, and return them."""
    survivors = []
    preload()
    chosen = [record.tests_of(mutant) for mutant in mutants]
    with tempfile.TemporaryDirectory() as folder:
        attempt = partial(is_noticed, copies=Path(folder).resolve())
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as executor:
            results = [
                executor.submit(attempt, mutant, tests) if tests else None
                for mutant, tests in zip(mutants, chosen, strict=True)
            ]
            for done, (mutant, result) in enumerate(zip(mutants, results, strict=True), 1):
                if result is None or not result.result():
                    survivors.append(mutant)
                    how = "not executed" if result is None else "not detected"
                    print(f"[{done}/{len(mutants)}] {how} {mutant}", flush=True)
    return survivors


def copy_checkout(target: Path) -> Path:
    """Copy the tracked files, without .git, .venv and pipeline output."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)
    return target


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", help="files or folders, relative to the checkout (default: all)")
    parser.add_argument("--count", type=int, default=300, help="number of changes")
    parser.add_argument("--seed", type=int, default=1, help="draws them")
    parser.add_argument("--workers", type=int, default=2, help="number of parallel processes")
    parser.add_argument("--record", type=Path, help="a recording of the suite, created if it does not exist")
    parser.add_argument("--show", action="store_true", help="only list the changes")
    parser.add_argument("--rules", action="store_true", help="only count the changes that are never drawn")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    if args.rules:
        show_rules(args.places)
        return 0
    mutants = draw(args.places, count=args.count, seed=args.seed)
    if args.show:
        print(*mutants, sep="\n")
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = args.record or Path(folder) / "record.tsv"
        if not path.exists():
            print(
                "recording which functions each test executes; this takes minutes",
                flush=True,
            )
            make_record(path, workers=args.workers)
        record = read_record(path)
    survivors = run(mutants, record, workers=args.workers)
    noticed = len(mutants) - len(survivors)
    share = noticed / max(1, len(mutants))
    minutes = (time.monotonic() - started) / 60
    print(f"{noticed} of {len(mutants)} detected ({share:.1%}, aim {AIM:.0%}), seed {args.seed}, {minutes:.0f} min")
    return 0 if share >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
