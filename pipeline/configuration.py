"""Reads the configuration: defaults, files laid over them, ``--set`` and flags, each checked.

    config = load_config()                                   # the config.json of the checkout
    config = load_config("configs/110m.json", settings=["training.batch_size=16"])

config.json spells out every default; any other file says only what differs. A path is relative to the file that names
it, the defaults to the checkout, ``--set`` and flags to the working directory. Paths below ``paths.data_dir`` follow it
unless they are set themselves.
"""

import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.config_sections_tmp import SECTIONS, Config, data_paths
from utils.errors import PipelineError, UsageError, did_you_mean
from utils.options import parse_setting, read_section

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = CHECKOUT / "config.json"


def load_config(
    path: str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """The checked configuration: defaults, config.json, `path` laid over it, then `settings`, then `flags`.

    Args:
        path: an overlay that says only what differs; None: config.json alone.
        settings: ``section.key=value`` texts, as ``--set`` takes them.
        flags: ``{"section.key": value}``, what a stage's own options set.
        base: values in place of config.json's, such as a checkpoint's configuration.

    Raises:
        PipelineError: a file that is missing or no JSON, an unknown key, a value that does not fit.
    """
    files = [] if base else [DEFAULT_CONFIG]
    files += [Path(path)] if path and Path(path).resolve() != DEFAULT_CONFIG else []
    defaults = config_values({}, origin="defaults", base=CHECKOUT)
    values = config_values(base or {}, origin="the checkpoint's configuration", base=CHECKOUT)
    explicit = _chosen(base or {}, values)
    for file in files:
        content = _read_json(file)
        _overlay(values, content, origin=file.name, base=file.resolve().parent)
        # config.json spells out every default, so there only a value that differs was chosen by the user.
        explicit |= _differing(values, defaults) if file == DEFAULT_CONFIG else _names(content)
    for setting in settings:
        section, key, text = _split_setting(setting)
        hint = typing.get_type_hints(SECTIONS[section]).get(key, str)
        _overlay(values, {section: {key: parse_setting(text, hint)}}, origin="--set", base=Path.cwd())
        explicit.add(f"{section}.{key}")
    for name, value in (flags or {}).items():
        section, _, key = name.partition(".")
        _overlay(values, {section: {key: value}}, origin="command line", base=Path.cwd())
        explicit.add(name)
    origins = [files[-1].name if files else "the checkpoint's configuration"]
    origins += ["--set"] if settings else []
    origin = " and ".join([*origins, *(["flags"] if flags else [])])
    return _checked(values, origin=origin, explicit=frozenset(explicit))


def config_from_dict(content: Mapping[str, Any], *, origin: str) -> Config:
    """The checked configuration that `Config.to_dict` gave, such as a checkpoint's."""
    values = config_values(content, origin=origin, base=CHECKOUT)
    return _checked(values, origin=origin, explicit=frozenset(_chosen(content, values)))


def folder_keys(section: str) -> set[str]:
    """The keys of a section that name files and folders."""
    hints = typing.get_type_hints(SECTIONS[section]) if section in SECTIONS else {}
    return {key for key, hint in hints.items() if hint in (Path, Path | None)}


def config_values(content: Mapping[str, Any], *, origin: str, base: Path) -> dict[str, dict[str, Any]]:
    """Every key's value: the defaults, their paths in the checkout, with `content` laid over them."""
    values = {name: {each.name: each.default for each in fields(section)} for name, section in SECTIONS.items()}
    for name, section in SECTIONS.items():
        values[name] = read_section(section, values[name], name=name, origin="defaults", base=CHECKOUT)
    _overlay(values, content, origin=origin, base=base)
    return values


def _chosen(content: Mapping[str, Mapping[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """``section.key`` of every key in a checkpoint's configuration, but for the paths that follow its `data_dir`."""
    root = values["paths"]["data_dir"]
    following = {
        f"{section}.{key}" for (section, key), place in data_paths().items() if values[section][key] == root / place
    }
    return _names(content) - following


def _names(content: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """``section.key`` of every key in `content`."""
    return {f"{section}.{key}" for section, keys in content.items() for key in keys}


def _differing(values: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """``section.key`` of every value that is not the default."""
    return {
        f"{section}.{key}" for section, keys in values.items() for key in keys if keys[key] != defaults[section][key]
    }


def _checked(values: Mapping[str, Mapping[str, Any]], *, origin: str, explicit: frozenset[str]) -> Config:
    values = _with_data_paths(values, explicit)
    sections = {name: section(**values[name]) for name, section in SECTIONS.items()}
    config = Config(**sections, explicit=explicit)
    problem = config.problem()
    if problem:
        raise PipelineError(f"{origin}: {problem}")
    return config


def _with_data_paths(values: Mapping[str, Mapping[str, Any]], explicit: frozenset[str]) -> dict[str, dict[str, Any]]:
    """`values` in which every path that nobody set is below `paths.data_dir`."""
    result = {name: dict(section) for name, section in values.items()}
    for (section, key), place in data_paths().items():
        if f"{section}.{key}" not in explicit:
            result[section][key] = result["paths"]["data_dir"] / place
    return result


def _overlay(values: dict[str, dict[str, Any]], content: Mapping[str, Any], *, origin: str, base: Path) -> None:
    for name, section_values in content.items():
        if name not in SECTIONS:
            raise PipelineError(f"{origin}: unknown section {name!r}{did_you_mean(name, SECTIONS)}")
        if not isinstance(section_values, Mapping):
            raise PipelineError(f"{origin}: section {name!r} is {section_values!r}; wanted: an object with keys")
        values[name].update(read_section(SECTIONS[name], section_values, name=name, origin=origin, base=base))


def _split_setting(setting: str) -> tuple[str, str, str]:
    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise UsageError(f"--set {setting!r}: wanted SECTION.KEY=VALUE, for example --set training.batch_size=8")
    if section not in SECTIONS:
        raise UsageError(f"--set {setting!r}: unknown section {section!r}{did_you_mean(section, SECTIONS)}")
    return section, key, text


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; ``// comments`` are allowed, a key that stands twice is not."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(
            f"config file {path} does not exist; name one with --config, for example configs/110m.json"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"config file {path} cannot be read: {error}") from None
    # Strings are matched first, so that a // inside one stays; newlines stay too, so that line numbers are right.
    text = re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*', lambda match: match[1] or "", text)
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _refuse_doubles(pairs, path))
    except ValueError as error:
        raise PipelineError(f"config file {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise PipelineError(f"config file {path} holds a {type(content).__name__}; wanted: an object with sections")
    return content


def _refuse_doubles(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise PipelineError(f"config file {path}: key {doubles[0]!r} stands twice in one object")
    return dict(pairs)
