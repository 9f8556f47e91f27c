"""Writes config.json and docs/configuration.md from the dataclasses: `make config`."""

import json
import typing
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from pipeline.configuration import CHECKOUT, DEFAULT_CONFIG, SECTIONS, section_to_dict
from utils.options import type_name

CONFIGURATION_PAGE = CHECKOUT / "docs" / "configuration.md"

_INTRODUCTION = """# Configuration

`config.json` holds every key with its default. Another file says only what differs: `--config configs/110m.json`.
`--set SECTION.KEY=VALUE` changes one key, as often as needed, and a stage's own flags come last. An unknown key is an
error that names the nearest known one. `// comments` are allowed. A path is relative to the file that names it, the
defaults to the checkout, `--set` and flags to the working directory.

To keep the data elsewhere, set one key: `{"paths": {"data_dir": "../data"}}`, or `--set paths.data_dir=../data`.
Every path whose default below starts with `data/` then follows, unless it is set itself: by a file that `--config`
names, by `--set` or a flag, or in `config.json` by a value that differs from the default.

This page and `config.json` are written by `make config` from `pipeline/*/config.py`, which define the keys.
"""


def config_json() -> str:
    """The text of config.json."""
    return json.dumps({name: section_to_dict(section()) for name, section in SECTIONS.items()}, indent=2) + "\n"


def configuration_page() -> str:
    """The text of docs/configuration.md."""
    parts = [_INTRODUCTION]
    for name, section in SECTIONS.items():
        hints = typing.get_type_hints(section)
        rows = [
            _row(key, hints[key.name], default)
            for key, default in zip(fields(section), section_to_dict(section()).values(), strict=True)
        ]
        parts.append(
            f"## `{name}`\n\n{section.__doc__}\n\n| key | default | type | meaning |\n|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    return "\n".join(parts)


def _row(key: Field[Any], hint: object, default: object) -> str:
    bounds = key.metadata
    limits = [f"at least {bounds['minimum']}"] if bounds["minimum"] is not None else []
    limits += [f"above {bounds['above']}"] if bounds["above"] is not None else []
    limits += [f"at most {bounds['maximum']}"] if bounds["maximum"] is not None else []
    kind = ", ".join(f"`{choice}`" for choice in bounds["choices"]) or ", ".join([type_name(hint), *limits])
    return f"| `{key.name}` | `{json.dumps(default)}` | {kind} | {bounds['doc']} |"


def write(page: Path = CONFIGURATION_PAGE, config: Path = DEFAULT_CONFIG) -> None:
    config.write_text(config_json(), encoding="utf-8")
    page.write_text(configuration_page(), encoding="utf-8")


if __name__ == "__main__":
    write()
    print(f"wrote {DEFAULT_CONFIG.name} and docs/{CONFIGURATION_PAGE.name}")
