"""Prepare conversations for fine-tuning: read, screen, tokenize, mix, report, write.

sources = [Source(Path("chats.jsonl"))]
prepare_conversations(config, ConversationOptions(max_length=512), sources=sources)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.configuration import Config
from pipeline.tokenization.interface import Tokenizer
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from pipeline.tuning.config import RAW_NAME
from pipeline.tuning.conversations import (
    ConversationOptions,
    ConversationReport,
    Example,
    iter_conversations,
    prepare_examples,
    show_preview,
)
from pipeline.tuning.dataset import WRITTEN_NAMES, SftMetadata, SourceFile, write_sft_dataset
from pipeline.tuning.fetch_lima import fetch_lima
from pipeline.tuning.mixture import Source, apportion, draw, source_names
from pipeline.tuning.screening import EvaluationSets, Screen
from utils.checksums import sha256_of
from utils.errors import PipelineError
from utils.files import refuse_overwriting
from utils.terminal import format_table, say


@dataclass(frozen=True)
class Prepared:
    """The examples of a file, with the numbers of conversations read and their formats."""

    source: Source
    name: str
    examples: list[Example]
    read: int
    formats: Counter[str]

    def describe(self, num_examples: int) -> SourceFile:
        return {
            "name": self.name,
            "sha256": sha256_of(self.source.path),
            "formats": dict(sorted(self.formats.items())),
            "read": self.read,
            "kept": len(self.examples),
            "examples": num_examples,
            "weight": None if self.source.weight is None else str(self.source.weight),
        }


def prepare_conversations(
    config: Config,
    options: ConversationOptions,
    *,
    sources: Sequence[Source] = (),
    evaluation: EvaluationSets | None = None,
    batch_size: int = 100,
    preview: int = 0,
) -> SftMetadata:
    """Tokenize `sources` (none: LIMA) into `config.paths.post_training_dir`, and return the metadata written there.

    Args:
        evaluation: conversations that share 13 words with these are left out.
        batch_size: conversations tokenized together.
        preview: the number of examples to print.

    Raises:
        PipelineError: no tokenizer, no access to LIMA, a file without conversations, nothing to learn; with
            `options.strict`, any malformed conversation.
    """
    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    directory = config.paths.post_training_dir
    sources = sources or [Source(fetch_lima(directory / RAW_NAME))]
    refuse_overwriting([source.path for source in sources], [directory / name for name in WRITTEN_NAMES])
    report = ConversationReport(options)
    screen = Screen(deduplicate=config.sft.deduplicate, evaluation=evaluation)
    prepared = [
        _prepare(source, name, tokenizer, report, screen, batch_size=batch_size)
        for source, name in zip(sources, source_names(sources), strict=True)
    ]
    mixed = _mixed(prepared, seed=config.sft.seed)
    examples = [example for chosen in mixed for example in chosen]
    for example in islice(examples, preview):
        say(show_preview(example, tokenizer), "")
    say(report.summary())
    files = [one.describe(len(chosen)) for one, chosen in zip(prepared, mixed, strict=True)]
    if len(files) > 1:
        say(_table(files))
    if not examples:
        names = ", ".join(str(source.path) for source in sources)
        raise PipelineError(f"{names}: no usable conversations; see the counts above for the reasons")
    stamp = evaluation.stamp() if evaluation else None
    metadata = write_sft_dataset(directory, examples, tokenizer, report, sources=files, decontamination=stamp)
    say(f"{metadata['tokens']:,} tokens, {metadata['learned_tokens']:,} of them learned, in {directory}")
    return metadata


def _prepare(
    source: Source,
    name: str,
    tokenizer: Tokenizer,
    report: ConversationReport,
    screen: Screen,
    *,
    batch_size: int,
) -> Prepared:
    read, formats, num_left_out = report.read, report.formats.copy(), len(report.left_out)
    conversations = iter_conversations(source.path, name, report, screen)
    examples = list(prepare_examples(conversations, tokenizer, report, batch_size=batch_size))
    # Conversations that are too long come after the others of their batch.
    report.left_out[num_left_out:] = sorted(report.left_out[num_left_out:], key=lambda skipped: skipped.number)
    return Prepared(source, name, examples, report.read - read, report.formats - formats)


def _mixed(prepared: Sequence[Prepared], *, seed: int) -> list[list[Example]]:
    """The examples to use of each file: all, or the shares that the weights ask for."""
    weights = [one.source.weight for one in prepared if one.source.weight is not None]
    if not weights:
        return [one.examples for one in prepared]
    counts = apportion([len(one.examples) for one in prepared], weights)
    return [
        [one.examples[chosen] for chosen in draw(len(one.examples), count, seed=seed, place=place)]
        for place, (one, count) in enumerate(zip(prepared, counts, strict=True))
    ]


def _table(files: Sequence[SourceFile]) -> str:
    """A row for each input file."""
    total = max(sum(file["examples"] for file in files), 1)
    rows = [["file", "format", "read", "kept", "used", "share"]]
    for file in files:
        numbers = [f"{count:,}" for count in (file["read"], file["kept"], file["examples"])]
        rows.append([file["name"], ", ".join(file["formats"]), *numbers, f"{file['examples'] / total:.1%}"])
    return format_table(rows, right=range(2, 6))
