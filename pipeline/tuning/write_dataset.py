"""Prepare conversations for fine-tuning: read, tokenize, report, write.

prepare_conversations(config, ConversationOptions(max_length=512), source=Path("chats.jsonl"))
"""

from itertools import islice
from pathlib import Path

from pipeline.configuration import Config
from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer
from pipeline.tuning.config import RAW_NAME
from pipeline.tuning.conversations import (
    ConversationOptions,
    ConversationReport,
    iter_conversations,
    prepare_examples,
    show_preview,
)
from pipeline.tuning.dataset import WRITTEN_NAMES, SftMetadata, write_sft_dataset
from pipeline.tuning.fetch_lima import fetch_lima
from utils.errors import PipelineError
from utils.files import refuse_overwriting
from utils.terminal import say


def prepare_conversations(
    config: Config,
    options: ConversationOptions,
    *,
    source: Path | None = None,
    batch_size: int = 100,
    preview: int = 0,
) -> SftMetadata:
    """Tokenize `source` (None: LIMA) into `config.paths.post_training_dir`, and return the metadata written there.

    Args:
        batch_size: conversations tokenized together.
        preview: the number of examples to print.

    Raises:
        PipelineError: no tokenizer, no access to LIMA, nothing to learn; with `options.strict`, any malformed
            conversation.
    """
    tokenizer = load_tokenizer(config.paths.tokenizer_dir, name=config.tokenizer.name)
    directory = config.paths.post_training_dir
    source = source or fetch_lima(directory / RAW_NAME)
    refuse_overwriting([source], [directory / name for name in WRITTEN_NAMES])
    report = ConversationReport(options)
    examples = list(prepare_examples(iter_conversations(source, report), tokenizer, report, batch_size=batch_size))
    for example in islice(examples, preview):
        say(show_preview(example, tokenizer), "")
    say(report.summary())
    if not examples:
        raise PipelineError(f"{source} contains no usable conversations; see the counts above for the reasons")
    metadata = write_sft_dataset(directory, examples, tokenizer, report, source=source)
    say(f"{metadata['tokens']:,} tokens, {metadata['learned_tokens']:,} of them learned, in {directory}")
    return metadata
