"""Text that every machine has, for measurements: source files of Python's library and the installed packages.

texts = package_texts(megabytes=200)    # each file once, whole, in a fixed order
"""

import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path


def package_texts(megabytes: float) -> list[str]:
    """Distinct texts, one per source or documentation file: `megabytes` in all, or as many as there are."""
    texts = []
    size = 0
    for text in _package_files():
        if size >= megabytes * 1e6:
            break
        texts.append(text)
        size += len(text.encode("utf-8"))
    return texts


def _package_files() -> Iterator[str]:
    seen = set()
    folders = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "platlib")]
    for folder in folders:
        for pattern in ("*.py", "*.pyi", "*.h", "*.md", "*.rst", "*.txt", "*.hpp", "*.cuh"):
            for path in sorted(folder.rglob(pattern)):
                content = path.read_bytes()
                digest = blake2b(content, digest_size=16).digest()
                if 200 <= len(content) <= 1_000_000 and digest not in seen:
                    seen.add(digest)
                    yield from _decoded(content)


def _decoded(content: bytes) -> Iterator[str]:
    try:
        yield content.decode("utf-8")
    except UnicodeDecodeError:
        return
