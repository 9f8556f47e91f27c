"""The system message of the conversations in the terminal: ``--system TEXT`` and ``/system TEXT``."""

import sys
from collections.abc import Sequence

from pipeline.console.streaming_output import Writer
from pipeline.generation.settings import check_text
from utils.errors import PipelineError
from utils.terminal import styled, visible


def set_system_message(writers: Sequence[Writer], text: str) -> None:
    """Change the system message of all models; an empty one removes it.

    Raises:
        PipelineError: a model was not fine-tuned on conversations.
    """
    for writer in writers:
        if text and not writer.loaded.is_chat:
            name = visible(writer.loaded.name)
            raise PipelineError(
                f"{name} is a base model, which has no system message; fine-tune it first: python3 main.py sft"
            )
    for writer in writers:
        writer.system = check_text(text).strip() if text else ""
        if writer.system and not writer.loaded.has_system_turn:
            note = "was tuned without system turns: the system message is put in front of the first question"
            print(styled(f"note: {visible(writer.loaded.name)} {note}", "dim", stream=sys.stderr), file=sys.stderr)
