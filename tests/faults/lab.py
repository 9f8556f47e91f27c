"""Run every stage once undisturbed in a world, then repeatedly with one fault each."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.faults.flips import Flip, flip_bit
from tests.faults.forked import Finished, run_forked
from tests.faults.layer import KILL, KINDS, POWER_CUTS, Fault
from tests.faults.stages import STAGES, Digest, Stage
from tests.faults.world import make_world

IDENTICAL, REFUSED, WARNED, WRONG = "identical", "refused", "warned", "wrong"


@dataclass(frozen=True)
class Case:
    """A fault of `kind` in `stage`, and its outcome. `place` is the operation, or the file with the flipped bit."""

    stage: str
    kind: str
    place: str
    outcome: str
    detail: str = ""


class Lab:
    """The stages up to `last` in `base`/world, which is restored to the state left by earlier stages before each run.

    Paths are part of a checkpoint, so every stage always runs in the same folder.
    """

    def __init__(self, base: Path, last: Stage = STAGES[-1]) -> None:
        self.root = base / "world"
        self.before = base / "before"
        self.scratch = base / "scratch"
        self.numbers = count()
        self.traces: dict[str, list[str]] = {}
        self.expected: dict[str, Digest] = {}
        make_world(self.root)
        for stage in STAGES[: STAGES.index(last) + 1]:
            shutil.copytree(self.root, self.before / stage.name)
            done = self.run(stage)
            if done.code != 0:
                raise RuntimeError(f"undisturbed {stage.name} ended with {done.code}: {done.errors[-2000:]}")
            self.traces[stage.name], self.expected[stage.name] = done.trace, stage.digest(self.root)

    def reset(self, state: str) -> None:
        """Restore the world to the state before a stage."""
        shutil.rmtree(self.root)
        shutil.copytree(self.before / state, self.root)

    def run(self, stage: Stage, fault: Fault | None = None) -> Finished:
        scratch = self.scratch / str(next(self.numbers))
        done = run_forked(lambda: stage.main(self.root), self.root, scratch, fault)
        shutil.rmtree(scratch)
        return done

    # ---- faults

    def faults(self, stage: Stage) -> list[Fault]:
        """Every kind of fault at every operation to which it applies."""
        trace = self.traces[stage.name]
        faults = [Fault(kind, at) for at in range(len(trace)) for kind in KINDS]
        faults = [fault for fault in faults if fault.fits(trace[fault.at].split(" ")[0])]
        return faults + [Fault(kind, len(trace)) for kind in POWER_CUTS]

    def try_fault(self, stage: Stage, fault: Fault) -> Case:
        """Run `stage` with `fault`, then again without, and judge the result."""
        trace = self.traces[stage.name]
        place = trace[fault.at] if fault.at < len(trace) else "the end"
        self.reset(stage.name)
        first = self.run(stage, fault)
        # The next run may clean up leftovers.
        lost = self._differences(stage, leftovers=False) if first.code == 0 else {}
        if warning := _warning_of_loss(first, lost):
            return Case(stage.name, fault.kind, place, WARNED, warning)
        if problem := _problem_of_first(first, lost):
            return Case(stage.name, fault.kind, place, WRONG, problem)
        return Case(stage.name, fault.kind, place, *self._judge(stage, self.run(stage)))

    def _judge(self, stage: Stage, done: Finished, ignored: tuple[str, ...] = ()) -> tuple[str, str]:
        if done.refusal:
            return REFUSED, done.refusal
        if done.code != 0:
            return WRONG, f"ended with {done.code}: {done.errors[-500:]}"
        changed = _described(self._differences(stage, ignored))
        return (WRONG, changed) if changed else (IDENTICAL, "")

    def _differences(self, stage: Stage, ignored: tuple[str, ...] = (), *, leftovers: bool = True) -> dict[str, str]:
        """How each output that differs from the undisturbed run's does; without `leftovers`, extra files may exist."""
        expected, found = self.expected[stage.name], stage.digest(self.root)
        differences = {}
        for name in sorted(expected.keys() | found.keys()):
            if name not in found:
                differences[name] = "missing"
            elif name not in expected:
                differences[name] = "left over"
            elif expected[name] != found[name]:
                differences[name] = "differing"
        return {
            name: how for name, how in differences.items() if name not in ignored and (leftovers or how != "left over")
        }

    # ---- flipped bits

    def interrupt(self, flip: Flip) -> None:
        """Restore the world to the state for the flip: before a stage, or in the middle of it."""
        self.reset(flip.stage)
        if flip.interrupted_at is None:
            return
        trace = self.traces[flip.stage]
        at = max(number for number, line in enumerate(trace) if flip.interrupted_at in line)
        self.run(self.stage(flip.stage), Fault(KILL, at))

    def try_flip(self, flip: Flip, seed: int) -> Case:
        """Flip one bit in one file, chosen with `seed`, and run the stage that reads it."""
        self.interrupt(flip)
        place = flip_bit(self.root, flip, seed)
        outcome = self._judge(self.stage(flip.stage), self.run(self.stage(flip.stage)), flip.ignored)
        return Case(flip.stage, flip.kind, place, *outcome)

    @staticmethod
    def stage(name: str) -> Stage:
        return next(stage for stage in STAGES if stage.name == name)


def _warning_of_loss(first: Finished, lost: Mapping[str, str]) -> str:
    """The warning of a run that succeeded without a picture, if it names each one that is missing or stale."""
    paths = [Path(name) for name in lost]
    named = all(any(path.name in warning for warning in first.warnings) for path in paths)
    return first.warnings[0] if paths and named and {path.suffix for path in paths} == {".png"} else ""


def _problem_of_first(first: Finished, lost: Mapping[str, str]) -> str:
    if not first.fired:
        return "the operation did not happen again"
    if first.killed or first.refusal:
        return ""
    if first.code != 0:
        return f"the disturbed run ended with {first.code}: {first.errors[-500:]}"
    return f"the disturbed run reported success, but {_described(lost)}" if lost else ""


def _described(differences: Mapping[str, str]) -> str:
    """``missing: a, b; differing: c``"""
    kinds = sorted(set(differences.values()))
    return "; ".join(f"{kind}: {', '.join(name for name, its in differences.items() if its == kind)}" for kind in kinds)
