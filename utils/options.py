"""Typed, documented and validated options, the basis of `pipeline/configuration.py`.

An option is a dataclass field with documentation and bounds, so a key, its default, its check and its line in
docs/configuration.md are defined in one place.
"""

import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any

from utils.errors import PipelineError, did_you_mean


def option(
    default: Any,
    doc: str,
    *,
    choices: Iterable[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field. `minimum` and `maximum` are inclusive, `above` is exclusive. Lists are tuples here."""
    bounds = {"choices": tuple(choices), "minimum": minimum, "maximum": maximum, "above": above}
    return field(default=default, metadata={"doc": doc, **bounds})


def read_section(section: type, values: Mapping[str, Any], *, name: str, origin: str, base: Path) -> dict[str, Any]:
    """Validate the `values` of a section and convert them to their fields' types. Relative paths start at `base`.

    Raises:
        PipelineError: an unknown key, a wrong type, a value out of range. The message names `origin` and the key.
    """
    known = {key.name: key for key in fields(section)}
    hints = typing.get_type_hints(section)
    result = {}
    for key, value in values.items():
        if key not in known:
            raise PipelineError(f"{origin}: unknown key {name}.{key}{did_you_mean(key, known)}")
        result[key] = _read_value(value, known[key], hints[key], where=f"{origin}: {name}.{key}", base=base)
    return result


def parse_setting(text: str, hint: Any) -> Any:
    """The value of ``--set KEY=text``: string options take the text itself, others parse it as JSON."""
    import json

    kind, optional = _unwrap(hint)
    if optional and text == "null":
        return None
    if kind in (str, Path):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def type_name(hint: Any) -> str:
    """A human-readable type: ``integer``, ``number or null``."""
    kind, optional = _unwrap(hint)
    names = {int: "integer", float: "number", str: "string", bool: "true or false", Path: "path"}
    name = names.get(kind, "list of strings")
    return f"{name} or null" if optional else name


def _described_type(hint: Any) -> str:
    """`type_name` inside a sentence: ``an integer``, ``a number or null``."""
    name = type_name(hint)
    if name.startswith("true"):
        return name
    return f"an {name}" if name.startswith("integer") else f"a {name}"


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """``int | None`` → (int, True); ``int`` → (int, False)."""
    if isinstance(hint, types.UnionType):
        inner = [member for member in typing.get_args(hint) if member is not type(None)]
        return inner[0], True
    return hint, False


def _read_value(value: Any, key: Field[Any], hint: Any, *, where: str, base: Path) -> Any:
    kind, optional = _unwrap(hint)
    if value is None and optional:
        return None
    converted = _convert(value, kind, base)
    if converted is None:
        raise PipelineError(f"{where} is {value!r}; expected {_described_type(hint)}")
    problem = _bounds_problem(converted, key.metadata)
    if problem:
        raise PipelineError(f"{where} is {value!r}; expected {problem}")
    return converted


def _convert(value: Any, kind: Any, base: Path) -> Any:
    """`value` converted to `kind`, or None if that is impossible. Neither True nor 3.0 is an integer."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if is_number and math.isfinite(value) else None
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is Path:
        if not isinstance(value, (str, Path)) or not str(value):
            return None
        return Path(os.path.normpath((base / Path(value).expanduser()).absolute()))  # without any ".."
    is_list = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
    return tuple(value) if is_list else None


def _bounds_problem(value: Any, bounds: Mapping[str, Any]) -> str:
    if bounds["choices"] and value not in bounds["choices"]:
        near = did_you_mean(value, bounds["choices"])
        return "one of " + ", ".join(bounds["choices"]) + near
    if bounds["minimum"] is not None and value < bounds["minimum"]:
        return f"at least {bounds['minimum']}"
    if bounds["maximum"] is not None and value > bounds["maximum"]:
        return f"at most {bounds['maximum']}"
    if bounds["above"] is not None and value <= bounds["above"]:
        return f"above {bounds['above']}"
    return ""
