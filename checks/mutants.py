"""Change one token of the code at a time and run the tests of that module: which changes does nobody notice?

    python -m checks.mutants                       # 300 changes drawn by seed 1, two at a time; or: make mutants
    python -m checks.mutants --seed 7 --count 50 pipeline/serving
    python -m checks.mutants --show                # lists the changes without running anything

A change is a comparison, an operator, a number, a truth value or a condition. Each is made in a copy of the checkout,
and the tests that import the module run against it. Changes that cannot matter (a message, a buffer's size) are listed
with the reason in checks/mutants_accepted.txt and are not drawn. The exit code is 1 if fewer than 95% are noticed.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Queue

from checks.import_graph import CHECKOUT, file_of, imported_modules, source_files

ACCEPTED = CHECKOUT / "checks" / "mutants_accepted.txt"
MAX_TEST_FILES = 4  # a module that half of the tests import is tested by those that name it most
TIMEOUT_SECONDS = 240
AIM = 0.95
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
    """One change: the source between two offsets of a file (in bytes) is replaced."""

    file: str
    line: int
    start: int
    end: int
    new: str
    source_line: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source_line}   →   {self.new}"


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Every possible change of a module, in the order of its text."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + column

    def mutant(node: ast.expr, start: int, end: int, new: str) -> Mutant:
        return Mutant(file, node.lineno, start, end, new, lines[node.lineno - 1].decode().strip())

    for node in ast.walk(ast.parse(source)):
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
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            test = node.test
            span = offset(test.lineno, test.col_offset), offset(test.end_lineno or 0, test.end_col_offset or 0)
            yield mutant(test, *span, f"(not ({source[slice(*span)].decode()}))")


def _swap(mutant, node: ast.expr, source: bytes, gap: tuple[int, int], new: str) -> Iterator[Mutant]:  # type: ignore[no-untyped-def]
    """The operator between two operands, with any brackets and spaces around it left as they are."""
    between = source[slice(*gap)].decode()
    old = between.strip(" ()\n\\")
    if old and "#" not in between and between.count(old) == 1:
        start = gap[0] + len(between[: between.index(old)].encode())
        yield mutant(node, start, start + len(old.encode()), new)


def _is_text(node: ast.BinOp) -> bool:
    """Text that is put together; a minus there is a TypeError and proves nothing."""
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def accepted_lines() -> dict[str, str]:
    """``file: source line`` → why a change there cannot matter."""
    entries = {}
    for line in ACCEPTED.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            place, _, reason = line.partition("  # because ")
            entries[place.strip()] = reason
    return entries


def draw(places: Sequence[str], *, count: int, seed: int) -> list[Mutant]:
    """`count` changes of the files below `places`, each file's share by its size."""
    accepted = accepted_lines()
    names = [path.relative_to(CHECKOUT).as_posix() for path in source_files(CHECKOUT)]
    chosen = [name for name in names if not places or name.startswith(tuple(places))]
    every = [
        mutant
        for name in chosen
        for mutant in mutants_of(name, (CHECKOUT / name).read_bytes())
        if f"{mutant.file}: {mutant.source_line}" not in accepted and not _in_option(mutant)
    ]
    return random.Random(seed).sample(every, min(count, len(every)))


def _in_option(mutant: Mutant) -> bool:
    """Defaults and bounds of the configuration: config.json is compared with them, which notices everything."""
    return mutant.file.endswith("/config.py")


def tests_of(file: str) -> list[str]:
    """The test files that reach a module by the fewest imports, the one with its name first."""
    tests = sorted((CHECKOUT / "tests").glob("test_*.py"))
    stem, found = Path(file).stem, dict.fromkeys(test for test in tests if test.stem == f"test_{Path(file).stem}")
    wanted, seen = {CHECKOUT / file}, set()
    while wanted and len(found) < MAX_TEST_FILES:
        reached = [test for test in tests if project_imports(test) & wanted]
        found |= dict.fromkeys(sorted(reached, key=lambda test: -test.read_text("utf-8").count(stem)))
        seen |= wanted
        wanted = {path for path in source_files(CHECKOUT) if project_imports(path) & wanted} - seen
    return [test.relative_to(CHECKOUT).as_posix() for test in list(found)[:MAX_TEST_FILES]]


@cache
def project_imports(path: Path) -> frozenset[Path]:
    return frozenset(file for file in map(file_of, imported_modules(path)) if file)


def is_noticed(mutant: Mutant, copy: Path) -> bool:
    """Whether the module's tests fail with the change, in `copy` of the checkout."""
    target = copy / mutant.file
    original = target.read_bytes()
    target.write_bytes(mutant.apply(original))
    tests = tests_of(mutant.file)
    try:
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
        )
        return done.returncode in (1, 2)  # failed, or not even collected; 5: no test ran
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_bytes(original)


def run(mutants: Sequence[Mutant], *, workers: int) -> list[Mutant]:
    """Tries them all and returns the survivors, printing each as it is found."""
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(workers):
            copies.put(_copy_checkout(Path(folder) / str(number)))

        def attempt(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                return is_noticed(mutant, copy)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(workers) as executor:
            for done, (mutant, noticed) in enumerate(zip(mutants, executor.map(attempt, mutants), strict=True), 1):
                if not noticed:
                    survivors.append(mutant)
                    print(f"[{done}/{len(mutants)}] nobody notices {mutant}", flush=True)
    return survivors


def _copy_checkout(target: Path) -> Path:
    """The tracked files, without .git, .venv and what the pipeline made."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)
    return target


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="*", help="files or folders, relative to the checkout (default: all)")
    parser.add_argument("--count", type=int, default=300, help="how many changes")
    parser.add_argument("--seed", type=int, default=1, help="draws them")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time")
    parser.add_argument("--show", action="store_true", help="only list them, with the tests that would run")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    mutants = draw(args.places, count=args.count, seed=args.seed)
    if args.show:
        for mutant in mutants:
            print(f"{mutant}\n    {' '.join(tests_of(mutant.file))}")
        return 0
    started = time.monotonic()
    survivors = run(mutants, workers=args.workers)
    noticed = len(mutants) - len(survivors)
    share = noticed / max(1, len(mutants))
    minutes = (time.monotonic() - started) / 60
    print(
        f"{noticed} of {len(mutants)} changes noticed ({share:.1%}, aim {AIM:.0%}), seed {args.seed}, {minutes:.0f} min"
    )
    return 0 if share >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
