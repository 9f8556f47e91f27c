"""The doctor's findings: one line each, with the command that fixes it.

    finding = Finding("disk", "problem", "2 GB free, the checkpoints need 5 GB", "--set paths.checkpoint_dir=DIR")
    print(report([finding]))

A problem must be fixed before the configured route can run; a note is only information.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from utils.errors import PipelineError
from utils.terminal import styled

Status = Literal["ok", "note", "problem"]
_MARKS: dict[Status, tuple[str, str]] = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("FAIL", "red")}
_TOPIC_WIDTH = 12
_NARROWEST = 50


@dataclass(frozen=True)
class Finding:
    """A result of a check. `remedy` is the command to run, or empty if nothing needs fixing."""

    topic: str
    status: Status
    found: str
    remedy: str = ""


def ok(topic: str, found: str) -> Finding:
    return Finding(topic, "ok", found)


def note(topic: str, found: str, remedy: str = "") -> Finding:
    return Finding(topic, "note", found, remedy)


def problem(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, "problem", found, remedy)


def from_error(topic: str, error: PipelineError, *, status: Status = "problem") -> Finding:
    """A finding from an error message, in which the remedy starts after the first semicolon."""
    found, _, remedy = str(error).partition("; ")
    return Finding(topic, status, found, remedy)


def can_run(findings: Sequence[Finding]) -> bool:
    return all(finding.status != "problem" for finding in findings)


def report(findings: Sequence[Finding], *, width: int | None = None) -> str:
    """A line for each finding and a final verdict; lines longer than `width` are wrapped and indented."""
    return "\n".join([*(_lines(finding, width) for finding in findings), "", _verdict(findings)])


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"can_run": can_run(findings), "findings": [asdict(finding) for finding in findings]}


def _lines(finding: Finding, width: int | None) -> str:
    mark, colour = _MARKS[finding.status]
    text = f"{finding.found}; {finding.remedy}" if finding.remedy else finding.found
    indent = " " * (_TOPIC_WIDTH + 8)
    if width:
        text = textwrap.fill(
            text, max(width, _NARROWEST), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False,
            break_long_words=False,
        ).lstrip()  # fmt: skip
    return f"{styled(f'{mark:<4}', colour)}  {finding.topic:<{_TOPIC_WIDTH}}  {text}"


def _verdict(findings: Sequence[Finding]) -> str:
    count = sum(finding.status == "problem" for finding in findings)
    if not count:
        return styled("the configured route can run", "green", "bold")
    problems = "1 problem" if count == 1 else f"{count} problems"
    return styled(f"the configured route cannot run yet: {problems}", "red", "bold")
