"""The table stage × fault × outcome, for the terminal and for docs/reliability.md."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.lab import IDENTICAL, REFUSED, WRONG, Case

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def outcome_table(cases: Sequence[Case]) -> str:
    """Markdown: a row for each stage and kind of fault, in the order of their first appearance."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case in cases:
        counts.setdefault((case.stage, case.kind), Counter())[case.outcome] += 1
    rows = [(*key, count.total(), count[IDENTICAL], count[REFUSED], count[WRONG]) for key, count in counts.items()]
    rows.append(("all", "", *(sum(row[column] for row in rows) for column in range(2, 6))))
    lines = ["| stage | fault | tried | same bytes | refused | wrong |", "|---|---|--:|--:|--:|--:|"]
    lines += [f"| {stage} | {kind} | " + " | ".join(f"{n:,}" for n in numbers) + " |" for stage, kind, *numbers in rows]
    return "\n".join(lines)


def write_table(page: Path, cases: Sequence[Case]) -> None:
    """Replace the table between the page's two marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{outcome_table(cases)}\n{END}{after}", encoding="utf-8")
