"""Compare whole reports with the files in `tests/expected`, because readers rely on every line of them.

UPDATE_EXPECTED=1 python -m pytest tests/test_expected_reports.py      # after an intended change; read the diff
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "expected"


def assert_expected(name: str, text: str) -> None:
    """`text` is what the file `name` contains."""
    path = FOLDER / name
    if os.environ.get("UPDATE_EXPECTED"):
        path.write_text(text, encoding="utf-8", newline="\n")
    assert text == path.read_text(encoding="utf-8")
