"""Compare the settings and inputs of an earlier run with this one."""

import json
from collections.abc import Mapping
from typing import Any

from utils.errors import PipelineError


def without_windows(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """`recipe` without the windows, which are views and do not affect the tokens."""
    return {key: value for key, value in recipe.items() if key not in ("window", "overlap")}


def refuse_differences(old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> None:
    """Raise PipelineError if a section of `new` has different values or keys than in `old`."""
    differences = [
        f"{section} {key} {_shown(old.get(section, {}).get(key))} (now {_shown(values.get(key))})"
        for section, values in new.items()
        for key in sorted(old.get(section, {}).keys() | values.keys())
        if old.get(section, {}).get(key) != values.get(key)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise PipelineError(
            f"{what} with {', '.join(differences[:3])}{more}; use the same settings, or start over with --restart"
        )


def _shown(value: Any) -> str:
    return "absent" if value is None else json.dumps(value)[:60]
