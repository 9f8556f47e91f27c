"""Chat with a fine-tuned model, with history."""

import sys
from collections.abc import Sequence

from pipeline.console.menus import choose_settings, print_mistake, read_prompt
from pipeline.console.streaming_output import Writer
from pipeline.formats.chat_template import Message, fit_prompt
from pipeline.generation.settings import GenerationSettings, check_text, prompt_room
from utils.errors import PipelineError
from utils.terminal import styled


def run_chat(writer: Writer, settings: GenerationSettings) -> None:
    """Answer question after question until the user quits."""
    print("Chat with history: /new starts over, /settings changes the parameters, q or Ctrl-D quits.")
    messages: list[Message] = []
    while True:
        try:
            question = read_prompt("\nYou: ")
            if question is None:
                return
            if question == "/new":
                messages = []
                print("started a new conversation")
            elif question == "/settings":
                settings = choose_settings(settings)
            else:
                messages = _answer(writer, [*messages, {"role": "user", "content": question}], settings)
        except PipelineError as error:
            print_mistake(error)


def _answer(writer: Writer, messages: Sequence[Message], settings: GenerationSettings) -> list[Message]:
    """Print the answer. Returns the conversation including it, without the turns that no longer fit the context."""
    kept, ids = shorten(writer, messages, settings)
    writer.check(ids, settings)
    print(styled("Model: ", "bold", "cyan"), end="", flush=True)
    text, statistics = writer.write(ids, settings, output=sys.stdout, may_stop=True)
    print(styled(statistics.line(), "dim"))
    return [*kept, {"role": "assistant", "content": text.strip() or "…"}]


def shorten(
    writer: Writer, messages: Sequence[Message], settings: GenerationSettings
) -> tuple[Sequence[Message], list[int]]:
    """Drop the oldest turns until there is room for an answer; the last question is always kept.

    Returns:
        The remaining messages and their token ids.
    """
    context = writer.loaded.model.config.context_length
    check_text(messages[-1]["content"])
    fitted = fit_prompt(writer.loaded.tokenizer, messages, room=prompt_room(settings.max_length, context=context))
    if fitted.num_dropped:
        turns = "turn was" if fitted.num_dropped == 1 else f"{fitted.num_dropped} turns were"
        print(styled(f"the oldest {turns} dropped: the context is limited to {context:,} tokens", "dim"))
    return fitted.messages, fitted.ids
