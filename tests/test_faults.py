"""A sample of the fault suite, and its table in the docs. `make test-faults` runs all of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.faults.layer import KINDS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
STAGES = ("cleaning", "tokenizer", "preparation", "conversations")


def test_no_fault_of_a_sample_is_used_silently():
    command = [sys.executable, "-m", "tests.faults", "--jobs", "1", "--sample", "30", "--stage", *STAGES]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) faults, 0 wrong", result.stdout)[1]) >= 30


def test_the_page_describes_every_kind_of_fault():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| {kind} | " in page for kind in KINDS)
