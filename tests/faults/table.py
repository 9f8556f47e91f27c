"""The table of outcomes by stage and fault, for the terminal and docs/reliability.md."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.flips import FLIPS
from tests.faults.lab import IDENTICAL, REFUSED, WARNED, WRONG, Case
from tests.faults.layer import KINDS
from tests.faults.stages import STAGES

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def outcome_table(cases: Sequence[Case]) -> str:
    """A Markdown table with a row for each stage and kind of fault; bit flips are grouped by file."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    stages, kinds = [stage.name for stage in STAGES], [*KINDS, *(flip.kind for flip in FLIPS)]
    for case in sorted(cases, key=lambda case: (stages.index(case.stage), kinds.index(case.kind))):
        counts.setdefault((case.stage, case.kind), Counter())[case.outcome] += 1
    rows = [
        (*key, count.total(), count[IDENTICAL], count[REFUSED], count[WARNED], count[WRONG])
        for key, count in counts.items()
    ]
    rows.append(("all", "", *(sum(row[column] for row in rows) for column in range(2, 7))))
    lines = ["| stage | fault | tried | same bytes | refused | warned | wrong |", "|---|---|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {stage} | {_shown(kind)} | " + " | ".join(f"{n:,}" for n in numbers) + " |"
        for stage, kind, *numbers in rows
    ]
    return "\n".join(lines)


def _shown(kind: str) -> str:
    return kind if kind in KINDS or not kind else f"bit flip: {kind}"


def write_table(page: Path, cases: Sequence[Case]) -> None:
    """Replace the table between the page's two marks."""
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(table_of(page), outcome_table(cases)), encoding="utf-8")


def table_of(page: Path) -> str:
    """The text between the page's two marks."""
    return page.read_text(encoding="utf-8").partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
