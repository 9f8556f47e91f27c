"""The steps of the GPU's check, in four groups: their names. What runs them is in step_process.py.

for step in chosen_steps(["speed"]):
    print(step.name)
"""

from collections.abc import Sequence
from typing import NamedTuple

from utils.errors import UsageError, did_you_mean

GROUPS = ("correctness", "training", "memory", "speed")
CLONES = ("nanogpt", "nanochat")  # steps that need the folder of another program


class Step(NamedTuple):
    """One step; `seconds` is when it is stopped."""

    name: str
    group: str
    seconds: float = 600.0


STEPS = (
    Step("float32", "correctness"),
    Step("bfloat16", "correctness"),
    Step("flash", "correctness"),
    Step("cudnn", "correctness"),
    Step("documents", "correctness"),
    Step("packing", "correctness"),
    Step("checkpointing", "correctness"),
    Step("head", "correctness"),
    Step("cache", "correctness"),
    Step("int8", "correctness"),
    Step("compiled", "training"),
    Step("resumed", "training"),
    Step("parts", "training"),
    Step("processes", "training"),
    Step("memory-25m", "memory"),
    Step("memory-110m", "memory"),
    Step("out-of-memory", "memory"),
    Step("speed-25m", "speed"),
    Step("speed-110m", "speed"),
    Step("speed-350m", "speed"),
    Step("writing", "speed"),
    *(Step(name, "speed") for name in CLONES),
)


def chosen_steps(names: Sequence[str], *, clones: Sequence[str] = ()) -> list[Step]:
    """The steps of these names or groups, all of them without names; of `CLONES` those whose folder is given.

    Raises:
        UsageError: no step or group has such a name, or its folder is not given.
    """
    known = [*GROUPS, *(step.name for step in STEPS)]
    for name in names:
        if name not in known:
            raise UsageError(f"--only {name!r}{did_you_mean(name, known)}; expected some of: {', '.join(known)}")
        if name in CLONES and name not in clones:
            raise UsageError(f"--only {name}: the folder of its clone is missing; add --{name} DIR")
    possible = [step for step in STEPS if step.name not in CLONES or step.name in clones]
    return [step for step in possible if not names or step.name in names or step.group in names]
