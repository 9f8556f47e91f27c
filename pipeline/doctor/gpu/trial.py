"""What a step is given, and what it answers.

    trial = Trial(device="cuda", scale=FULL, folder=folder)
    rows = compare_float32(trial)       # every step is such a function

`FULL` are the sizes of the GPU's check. `REHEARSAL` are those of the same steps on a CPU, which take seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.modeling.config import ModelConfig

# Only `fail` and `error` make the command fail. An aim is a speed that a good implementation reaches.
Verdict = Literal["pass", "fail", "below aim", "measured", "skipped", "error"]
FAILURES: frozenset[Verdict] = frozenset(("fail", "error"))


@dataclass(frozen=True)
class Row:
    """One line of the table; `values` are the numbers behind `found`."""

    what: str
    found: str
    expected: str
    verdict: Verdict
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """A configuration that is trained: a file in configs/ (None: config.json) and settings laid over it."""

    name: str
    config: str | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """The sizes of all steps.

    Attributes:
        small: the model that is compared with the CPU's float32.
        rows, length: the batch that it is given.
        head_rows: rows of the output head; more than it takes at once.
        presets: what is trained and timed: three, the smallest first.
        compiled: whether what is timed is compiled.
        window: tokens in a training window of these.
        steps: training steps of a comparison.
        timed_steps: steps whose speed is measured.
        tokens: of the synthetic dataset.
        prompt, new_tokens: of the decoding.
        copied_bytes: what is copied to find the memory's bandwidth.
    """

    small: ModelConfig
    rows: int
    length: int
    head_rows: int
    presets: tuple[Preset, Preset, Preset]
    compiled: bool
    window: int
    steps: int
    timed_steps: int
    tokens: int
    prompt: int
    new_tokens: int
    copied_bytes: int


# So that rounding grows slowly from step to step, and no step is left out.
_STEADY = (
    "training.warmup_steps=20",
    "training.learning_rate=3e-4",
    "training.min_learning_rate=3e-5",
    "training.spike_sigma=0",
)
FULL = Scale(
    small=ModelConfig(
        vocab_size=1024,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=704,
        max_position_embeddings=512,
    ),
    rows=3,
    length=384,
    head_rows=10_000,
    presets=(
        Preset("25M", None, ("dataset.window=1024", "training.batch_size=32", *_STEADY)),
        Preset("110M", "configs/110m.json", ("training.batch_size=32", *_STEADY)),
        Preset(
            "350M",
            "configs/350m.json",
            ("training.batch_size=16", "model.activation_checkpointing=false", *_STEADY),
        ),
    ),
    compiled=True,
    window=1024,
    steps=30,
    timed_steps=20,
    tokens=8_000_000,
    prompt=128,
    new_tokens=128,
    copied_bytes=1 << 30,
)


def _tiny(name: str, width: int) -> Preset:
    shape = {
        "vocab_size": 256,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 128,
    }
    settings = [f"model.{key}={value}" for key, value in shape.items()]
    return Preset(
        name, None, (*settings, "dataset.window=128", "training.batch_size=4", "training.compile=off", *_STEADY)
    )


REHEARSAL = Scale(
    small=ModelConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
    ),
    rows=2,
    length=128,
    head_rows=600,
    presets=(_tiny("tiny", 32), _tiny("small", 48), _tiny("wide", 64)),
    compiled=False,
    window=128,
    steps=6,
    timed_steps=3,
    tokens=60_000,
    prompt=16,
    new_tokens=16,
    copied_bytes=1 << 24,
)


@dataclass(frozen=True)
class Trial:
    """What a step works with; `folder` is a temporary one, `nanogpt` and `nanochat` are clones to compare with."""

    device: str
    scale: Scale
    folder: Path
    nanogpt: Path | None = None
    nanochat: Path | None = None


def judged(what: str, found: str, expected: str, is_right: bool, **values: float) -> Row:
    return Row(what, found, expected, "pass" if is_right else "fail", values)


def at_most(what: str, difference: float, tolerance: float) -> Row:
    """The verdict on a relative difference; one that is not a number fails."""
    expected = f"at most {tolerance:.0e}"
    return judged(what, f"{difference:.1e}", expected, difference <= tolerance, difference=difference)


def measured(what: str, found: str, **values: float) -> Row:
    return Row(what, found, "", "measured", values)


def skipped(what: str, reason: str) -> Row:
    return Row(what, reason, "", "skipped")


def aim(what: str, found: str, value: float, target: float, shown: str) -> Row:
    """The verdict on a speed: short of `target` it is below the aim, which is not a failure."""
    verdict: Verdict = "pass" if value >= target else "below aim"
    return Row(what, found, f"at least {shown}", verdict, {"value": value, "aim": target})
