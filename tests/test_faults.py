"""The short form of the fault suite, and its table in the documentation; `make test-faults` runs all of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.faults.flips import FLIPS
from tests.faults.layer import KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
STAGES = ("cleaning", "tokenizer", "preparation", "conversations")


def test_no_fault_of_a_sample_is_used_silently():
    command = [sys.executable, "-m", "tests.faults", "--jobs", "1", "--sample", "30", "--stage", *STAGES]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) faults, 0 wrong", result.stdout)[1]) >= 30


def test_the_page_has_a_row_for_every_stage_and_fault():
    page = PAGE.read_text(encoding="utf-8")
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in page.splitlines() if line[:2] == "| "}
    for flip in FLIPS:
        assert (flip.stage, f"bit flip: {flip.kind}") in rows
    for stage in (*STAGES, "training", "fine-tuning", "export", "import"):
        assert {kind for kind in KINDS if (stage, kind) in rows} == set(KINDS), stage
