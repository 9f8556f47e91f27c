"""The final report of a preparation run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.terminal import format_table


def summary(metadata: Mapping[str, Any], directory: Path) -> str:
    """Totals, compression, and removed documents by reason."""
    totals, compression = metadata["totals"], metadata["compression"]
    rows = [
        ("documents", f"{totals['documents']:,}"),
        *((f"removed: {reason}", f"{count:,}") for reason, count in metadata["rejected"].items()),
        ("tokens", f"{totals['tokens']:,}"),
        (f"windows of {metadata['window']}, one every {metadata['stride']}", f"{totals['windows']:,}"),
        ("token files", f"{len(metadata['files']):,}"),
        ("bytes per token", f"{compression['bytes_per_token']:.2f}"),
        ("characters per token", f"{compression['characters_per_token']:.2f}"),
    ]
    return format_table([("dataset", str(directory)), *rows])
