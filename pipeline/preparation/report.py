"""The final report of a preparation run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.preparation.near_duplicate_pass import EXAMPLES_NAME
from utils.terminal import format_table


def summary(metadata: Mapping[str, Any], directory: Path) -> str:
    """Totals, compression, and removed documents by reason."""
    totals, compression = metadata["totals"], metadata["compression"]
    rows = [
        ("documents", f"{totals['documents']:,}"),
        *((f"removed: {reason}", f"{count:,}") for reason, count in metadata["rejected"].items()),
        *_near_duplicate_rows(metadata.get("near_duplicates"), directory),
        ("tokens", f"{totals['tokens']:,}"),
        (f"windows of {metadata['window']}, one every {metadata['stride']}", f"{totals['windows']:,}"),
        ("token files", f"{len(metadata['files']):,}"),
        ("bytes per token", f"{compression['bytes_per_token']:.2f}"),
        ("characters per token", f"{compression['characters_per_token']:.2f}"),
    ]
    return format_table([("dataset", str(directory)), *rows])


def _near_duplicate_rows(facts: Mapping[str, Any] | None, directory: Path) -> list[tuple[str, str]]:
    if facts is None:
        return []
    return [
        ("clusters of near duplicates", f"{facts['clusters']:,}"),
        ("tokens in removed near duplicates", f"{facts['tokens']:,}"),
        ("examples of similar pairs", str(directory / EXAMPLES_NAME)),
    ]
