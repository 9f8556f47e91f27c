"""What differs between the configurations of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

# What shapes a run; the rest of the configuration is about other stages.
_PRETRAINING = ("dataset", "model", "training")
_FINE_TUNING = (*_PRETRAINING, "sft")
_ABSENT = "–"


def differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``{"key": "training.learning_rate", "values": […]}`` for every key whose values differ, in the order of the
    configuration. Runs without a configuration do not count."""
    known = [config for config in map(_flat, configs) if config]
    keys = dict.fromkeys(key for config in known for key in config)
    changed = [key for key in keys if len({config.get(key, _ABSENT) for config in known}) > 1]
    return [{"key": key, "values": [_flat(config).get(key, _ABSENT) for config in configs]} for key in changed]


def from_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any], *, is_tuning: bool) -> list[dict[str, Any]]:
    """What a single run changed: the keys, except folders, whose values differ from the defaults."""
    sections = _FINE_TUNING if is_tuning else _PRETRAINING
    ours, theirs = _flat(config), _flat(defaults)
    return [
        {"key": key, "values": [theirs.get(key, _ABSENT), value]}
        for key, value in ours.items()
        if key.partition(".")[0] in sections and not key.endswith("_dir") and value != theirs.get(key, _ABSENT)
    ]


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    """``section.key`` → the value as text."""
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    return {f"{name}.{key}": _text(value) for name, section in sections.items() for key, value in section.items()}


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
