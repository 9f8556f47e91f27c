"""Put the architecture picture, drawn from the code as it is, into the documentation site (a hook of mkdocs)."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # mkdocs loads this file by its path

from checks.architecture_picture import picture

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PICTURE = "images/architecture.svg"


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    from mkdocs.structure.files import File

    files.append(File.generated(config, PICTURE, content=picture()))
    return files
