"""The fine-tuning data on disk: file names, the only writer and reader. docs/instruction_tuning.md describes it.

    data = SftDataset.open(config.paths.post_training_dir)
    data.ids, data.masks            # (N, max_length), uint16 and uint8
    data.lengths                    # (N,) tokens of each conversation, the padding not counted

Needs NumPy and nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from pipeline.formats.chat_template import TEMPLATE_NAME, TEMPLATES, render_text
from pipeline.formats.token_dataset import DAMAGED_ARRAY_ERRORS
from pipeline.quickstart_hint import or_quickstart
from pipeline.tokenization.interface import Tokenizer, TokenizerIdentity, identity_of
from pipeline.tuning.conversations import ConversationReport, Example
from utils.checksums import sealed, sha256_of, unsealed
from utils.errors import PipelineError
from utils.files import remove_stale_temporaries, whole_file, write_json, write_text

FORMAT_VERSION = 1
EXAMPLES_NAME, MASKS_NAME, METADATA_NAME = "tokenized_examples.npy", "loss_masks.npy", "metadata.json"
CONVERSATIONS_NAME = "example_conversations.json"
LEFT_OUT_NAME = "left_out.jsonl"
WRITTEN_NAMES = (EXAMPLES_NAME, MASKS_NAME, METADATA_NAME, CONVERSATIONS_NAME, LEFT_OUT_NAME)
_SHOWN = 5  # conversations in CONVERSATIONS_NAME
_REMEDY = "run: python3 lima_tokenizer.py"


class SourceFile(TypedDict):
    """An input file: how many conversations it has, and how many of them are kept and used (`examples`)."""

    name: str
    sha256: str
    formats: dict[str, int]
    read: int
    kept: int
    examples: int
    weight: str | None


class SftMetadata(TypedDict):
    """The content of metadata.json."""

    format_version: int
    template: str
    tokenizer: TokenizerIdentity
    vocab_size: int
    sources: list[SourceFile]
    decontamination: dict[str, Any] | None  # the evaluation sets, as in the metadata of a token dataset
    max_length: int
    too_long: str
    examples: int
    turns: int
    tokens: int
    learned_tokens: int
    read: int
    truncated: int
    open_questions: int
    left_out: dict[str, int]  # by reason
    files: dict[str, str]  # name → sha256


@dataclass(frozen=True)
class SftDataset:
    """Conversations as ids, padded with EOS, and masks that are 1 where the model learns."""

    directory: Path
    metadata: SftMetadata
    ids: np.ndarray
    masks: np.ndarray

    @classmethod
    def open(cls, directory: Path) -> "SftDataset":
        """The complete data in `directory`.

        Raises:
            PipelineError: no metadata.json, another template or format, arrays that do not fit it.
        """
        metadata = _read_metadata(directory)
        arrays = [_load(directory / name, dtype) for name, dtype in ((EXAMPLES_NAME, "uint16"), (MASKS_NAME, "uint8"))]
        shape = (metadata["examples"], metadata["max_length"])
        for name, array in zip((EXAMPLES_NAME, MASKS_NAME), arrays, strict=True):
            if array.shape != shape:
                raise PipelineError(
                    f"{directory / name} has shape {array.shape}, but {METADATA_NAME} says {shape}; {_REMEDY}"
                )
            found, expected = sha256_of(directory / name), metadata["files"][name]
            if found != expected:
                raise PipelineError(
                    f"{directory / name} is damaged: its sha256 is {found[:16]}, but {METADATA_NAME} says "
                    f"{expected[:16]}; {_REMEDY}"
                )
        return cls(directory, metadata, *arrays)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens up to the last one that is learned, int64 (N,); those after it are padding or train nothing."""
        lengths: np.ndarray = self.masks.shape[1] - np.argmax(self.masks[:, ::-1], axis=1)
        return lengths

    @property
    def fingerprint(self) -> str:
        """Identifies the data; checkpoints record it."""
        return self.metadata["files"][EXAMPLES_NAME]


def write_sft_dataset(
    directory: Path,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    report: ConversationReport,
    *,
    sources: list[SourceFile],
    decontamination: dict[str, Any] | None = None,
) -> SftMetadata:
    """Write all five files, the metadata last, and return it. The same input gives the same bytes."""
    remove_stale_temporaries(directory, *WRITTEN_NAMES)
    (directory / METADATA_NAME).unlink(missing_ok=True)
    shape = (len(examples), report.options.max_length)
    ids = np.full(shape, tokenizer.eos_id, dtype=np.uint16)
    masks = np.zeros(shape, dtype=np.uint8)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        masks[row, : len(example.ids)] = example.mask
    for name, array in ((EXAMPLES_NAME, ids), (MASKS_NAME, masks)):
        with whole_file(directory / name) as file:
            np.save(file, array)
    write_json(directory / CONVERSATIONS_NAME, [_shown(example) for example in examples[:_SHOWN]])
    lines = (json.dumps(asdict(skipped), ensure_ascii=False) + "\n" for skipped in report.left_out)
    write_text(directory / LEFT_OUT_NAME, "".join(lines))
    metadata: SftMetadata = {
        "format_version": FORMAT_VERSION,
        "template": TEMPLATE_NAME,
        "tokenizer": identity_of(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "sources": sources,
        "decontamination": decontamination,
        "max_length": report.options.max_length,
        "too_long": report.options.too_long,
        "examples": len(examples),
        "turns": sum(len(example.turns) for example in examples),
        "tokens": sum(len(example.ids) for example in examples),
        "learned_tokens": int(masks.sum()),
        "read": report.read,
        "truncated": report.truncated,
        "open_questions": report.open_questions,
        "left_out": dict(sorted(report.refused.items())),
        "files": {name: sha256_of(directory / name) for name in (EXAMPLES_NAME, MASKS_NAME)},
    }
    write_json(directory / METADATA_NAME, sealed(metadata))
    return metadata


def _shown(example: Example) -> dict[str, object]:
    return {
        "where": example.where,
        "text": render_text(example.turns),
        "ids": example.ids.tolist(),
        "mask": example.mask.tolist(),
    }


def _read_metadata(directory: Path) -> SftMetadata:
    path = directory / METADATA_NAME
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(
            f"{directory} contains no prepared conversations ({METADATA_NAME} is missing); "
            f"{_REMEDY}{or_quickstart(directory)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"{path} cannot be read: {error}; {_REMEDY}") from None
    if not isinstance(metadata, dict):
        raise PipelineError(f"{path} contains a {type(metadata).__name__}, expected an object; {_REMEDY}")
    metadata = unsealed(metadata, origin=path, remedy=_REMEDY)
    version, template = metadata.get("format_version"), metadata.get("template")
    if version != FORMAT_VERSION or template not in TEMPLATES:
        expected = f"{FORMAT_VERSION} and {' or '.join(TEMPLATES)}"
        raise PipelineError(f"{path}: format and template are {version} and {template}, expected {expected}; {_REMEDY}")
    return cast(SftMetadata, metadata)


def _load(path: Path, dtype: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except DAMAGED_ARRAY_ERRORS as error:
        raise PipelineError(f"{path} cannot be read: {error}; {_REMEDY}") from None
    if array.dtype != dtype:
        raise PipelineError(f"{path} has dtype {array.dtype}, expected {dtype}; {_REMEDY}")
    return array
