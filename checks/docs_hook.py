"""An mkdocs hook that adds generated pages and pages from outside docs/.

README.md becomes the front page, CONTRIBUTING.md and CHANGELOG.md become pages, and the architecture picture is
generated from the code.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # mkdocs loads this file by its path

from checks.architecture_picture import picture
from checks.import_graph import CHECKOUT

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PICTURE = "images/architecture.svg"
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    from mkdocs.structure.files import File

    files.append(File.generated(config, PICTURE, content=picture()))
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=_as_page((CHECKOUT / source).read_text(encoding="utf-8"))))
    return files


def _as_page(text: str) -> str:
    """Rewrite the links of a file at the root for a page in docs/."""
    text = text.replace("](docs/)", "](index.md)").replace("](docs/", "](").replace('src="docs/', 'src="')
    for source, page in ROOT_PAGES.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text
