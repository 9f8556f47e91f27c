"""Print a summary of what cleaning read, kept and removed."""

from pipeline.cleaning.plan import REJECTS_NAME
from pipeline.cleaning.run import CleaningRun
from pipeline.formats.cleaned_text import printable_name
from utils.terminal import format_bytes, format_seconds, format_table, say


def print_summary(cleaning: CleaningRun, seconds: float) -> None:
    """Print what was read, kept and removed, by reason."""
    totals = cleaning.report()["totals"]
    rows = [("articles", "count"), ("read", f"{totals['read']:,}")]
    rows += [(f"  {reason}", f"{count:,}") for reason, count in totals["removed_articles"].items()]
    rows += [("  malformed", f"{totals['rejected']:,}")] if totals["rejected"] else []
    rows += [("kept", f"{totals['articles']:,}")]
    say("\n" + format_table(rows, right=[1]))
    parts = [("removed from kept articles", "count"), *((k, f"{n:,}") for k, n in totals["removed_parts"].items())]
    if parts[1:]:
        say("\n" + format_table(parts[:16], right=[1]))
    if totals["unknown_types"]:
        say(
            "\nunknown part types, kept as text: " + ", ".join(f"{k} {n:,}" for k, n in totals["unknown_types"].items())
        )
    if totals["rejected"]:
        say(f"\nmalformed records, with file, line and reason: {cleaning.directory / REJECTS_NAME}")
    size = sum(result["bytes"] for result in cleaning.results.values())
    say(f"\n{len(cleaning.jobs)} files, {format_bytes(size)} in {cleaning.directory} ({format_seconds(seconds)})")
    for name in cleaning.leftovers:
        say(f"note: {printable_name(name)} is not from this input; dataset preparation ignores it")
