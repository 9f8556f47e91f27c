"""Generate config.json and docs/configuration.md from the dataclasses: `make config`."""

import json
import typing
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from pipeline.configuration import CHECKOUT, DEFAULT_CONFIG, SECTIONS, section_to_dict
from utils.options import type_name

CONFIGURATION_PAGE = CHECKOUT / "docs" / "configuration.md"

_INTRODUCTION = """# Configuration

`config.json` has every key with its default. Other files contain only what differs: `--config configs/110m.json`.
`--set SECTION.KEY=VALUE` changes one key and can be repeated; a stage's own flags override everything else. An unknown
key is an error that suggests the nearest known one. `// comments` are allowed. Relative paths in a file are resolved
against that file, defaults against the checkout, and `--set` and flags against the working directory.

To keep the data elsewhere, set one key: `{"paths": {"data_dir": "../data"}}`, or `--set paths.data_dir=../data`.
Every path whose default below starts with `data/` then follows, unless you set it explicitly: in a `--config` file,
with `--set` or a flag, or in `config.json` with a value that differs from the default.

`make config` generates this page and `config.json` from the definitions in `pipeline/*/config.py`.
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
