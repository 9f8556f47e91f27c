"""A sample of the fault suite, and its table in the docs. `make test-faults` runs all of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.faults.flips import FLIPS
from tests.faults.layer import KINDS
from tests.faults.stages import STAGES
from tests.faults.table import table_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
QUICK_STAGES = ("cleaning", "tokenizer", "preparation", "conversations")


def test_no_fault_of_a_sample_is_used_silently():
    command = [sys.executable, "-m", "tests.faults", "--jobs", "1", "--sample", "12", "--stage", *QUICK_STAGES]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) faults, 0 wrong", result.stdout)[1]) >= 12


def test_the_page_describes_every_kind_of_fault():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| {kind} | " in page for kind in KINDS)


def test_the_published_table_covers_every_stage_and_kind():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table_of(PAGE).splitlines()[2:]]
    *rows, (_, _, tried, *_, wrong) = rows
    assert {row[0] for row in rows} == {stage.name for stage in STAGES}
    assert {row[1] for row in rows} == {*KINDS, *(f"bit flip: {flip.kind}" for flip in FLIPS)}
    assert int(tried.replace(",", "")) >= 1000
    assert wrong == "0"
