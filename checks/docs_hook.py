"""Complete the documentation site with what is kept elsewhere (a hook of mkdocs).

The front page is README.md, CONTRIBUTING.md and CHANGELOG.md are pages too, and the architecture picture is drawn from
the code as it is.
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
    """Links of a file at the root, as a page next to those of docs/ needs them."""
    text = text.replace("](docs/)", "](index.md)").replace("](docs/", "](").replace('src="docs/', 'src="')
    for source, page in ROOT_PAGES.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text
