"""Recognise an earlier export by a mark in its weights, and replace it; nothing else is ever replaced.

refuse_to_replace(folder, overwrite=args.overwrite)
replace_folder(folder, by=temporary)
"""

from pathlib import Path

from utils.checksums import SUMS_NAME
from utils.errors import PipelineError
from utils.files import sync_directory

WEIGHTS_NAME = "model.safetensors"
EXPORTED_NAMES = (
    "config.json",
    "generation_config.json",
    WEIGHTS_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
    SUMS_NAME,
)
WEIGHTS_METADATA = {"format": "pt", "written_by": "export.py"}  # transformers asks for the first
_GGUF_MAGIC = b"GGUF"


def refuse_to_replace(directory: Path, *, overwrite: bool) -> None:
    """Raise PipelineError if `directory` exists and is not an earlier export that may be replaced."""
    if not directory.exists() and not directory.is_symlink():
        return
    if not _is_export(directory):
        raise PipelineError(f"{directory} already exists and is not an export; choose a different folder with --output")
    others = sorted(path.name for path in directory.iterdir() if path.name not in EXPORTED_NAMES)
    if others:
        raise PipelineError(
            f"{directory} contains files that the exporter did not write ({', '.join(others[:5])}), so it will "
            "not be replaced; move them, or choose a different folder with --output"
        )
    if not overwrite:
        raise PipelineError(f"{directory} already exists; choose a different folder with --output, or pass --overwrite")


def require_export(directory: Path) -> None:
    """Raise PipelineError if `directory` is not a folder that the exporter wrote."""
    if not directory.exists():
        raise PipelineError(f"{directory} does not exist; export a checkpoint first: --checkpoint latest")
    if not _is_export(directory):
        raise PipelineError(f"{directory} is not an export; expected a folder written by export.py --output")


def refuse_to_replace_file(path: Path, *, overwrite: bool) -> None:
    """Raise PipelineError if `path` exists and is not a GGUF file that may be replaced."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_file() or not _is_gguf(path):
        raise PipelineError(f"{path} already exists and is not a GGUF file; choose a different file with --gguf")
    if not overwrite:
        raise PipelineError(f"{path} already exists; choose a different file with --gguf, or pass --overwrite")


def replace_folder(directory: Path, *, by: Path) -> None:
    """Rename the folder `by` to `directory`; an earlier export of that name is removed first, file by file."""
    if directory.exists():
        refuse_to_replace(directory, overwrite=True)  # again: much time has passed
        for name in EXPORTED_NAMES:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
    by.rename(directory)
    sync_directory(directory.parent)


def _is_export(directory: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if directory.is_symlink() or not (directory / WEIGHTS_NAME).is_file():
        return False
    try:
        with safe_open(directory / WEIGHTS_NAME, framework="pt") as file:
            return bool(file.metadata() == WEIGHTS_METADATA)
    except (OSError, SafetensorError):
        return False


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
