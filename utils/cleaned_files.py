"""What the cleaner says about its folder: `cleaning_report.json`, written anew after every file.

The report is the state that survives a kill, the summary that people read, and what dataset preparation asks before it
believes that the folder is complete.
"""

import json
import os
from pathlib import Path
from typing import Any

from utils.errors import PipelineError

REPORT_NAME = "cleaning_report.json"
REPORT_VERSION = 1


def cleaned_files(directory: Path, *, test: bool = False) -> list[Path]:
    """The `cleaned_*.txt` of `directory` that a dataset is made of, in the order of their names.

    A folder without a report holds files that people made themselves; they are taken as they are. `test` accepts a
    folder that a test run made.

    Raises:
        PipelineError: there is none, cleaning was not finished, or a test run made one and `test` is not asked for.
    """
    present = sorted(directory.glob("cleaned_*.txt"))
    report = read_report(directory)
    if not report:
        if not present:
            found = "has no cleaned_*.txt" if directory.is_dir() else "does not exist"
            raise PipelineError(f"{directory} {found}; run: python3 cleaner.py")
        return present
    _check_complete(directory, report)
    partial = next((name for name, file in report["files"].items() if file["limit"] is not None), None)
    if partial and not test:
        found = f"{partial} is from a test run, the first {report['files'][partial]['limit']:,} articles only"
        raise PipelineError(f"{directory}: {found}; run: python3 cleaner.py (or prepare with --test)")
    return [directory / name for name in sorted(report["files"])]


def _check_complete(directory: Path, report: dict[str, Any]) -> None:
    if not report["complete"]:
        done = sum(1 for name in report["planned"] if name in report["files"])
        found = f"{done} of {len(report['planned'])} files are cleaned"
        raise PipelineError(f"{directory} is not complete: {found}; run: python3 cleaner.py")
    for name, file in report["files"].items():
        path = directory / name
        size = path.stat().st_size if path.exists() else None
        if size != file["bytes"]:
            found = "is missing" if size is None else f"has {size:,} bytes, the report says {file['bytes']:,}"
            raise PipelineError(f"{path} {found}; run: python3 cleaner.py")


def read_report(directory: Path) -> dict[str, Any] | None:
    """The folder's report, or None where there is none.

    Raises:
        PipelineError: it cannot be read, or is of another version.
    """
    path = directory / REPORT_NAME
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PipelineError(f"{path} is not JSON: {error}; delete it and run: python3 cleaner.py") from None
    if not isinstance(report, dict) or report.get("version") != REPORT_VERSION:
        raise PipelineError(f"{path} is of another version; delete it and run: python3 cleaner.py")
    return report


def write_report(directory: Path, report: dict[str, Any]) -> None:
    path = directory / REPORT_NAME
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"version": REPORT_VERSION, **report}, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
