"""One model in the terminal: prompt after prompt, or, where it was fine-tuned on conversations, a chat."""

import sys

from pipeline.console.menus import Quit, ask_or_quit, choose_settings
from pipeline.console.streaming_output import Writer
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError, UsageError
from utils.terminal import styled, visible


def run_single(writer: Writer, default: GenerationSettings) -> None:
    """Goes on until the user leaves, without loading again. What is wrong with a prompt is said, and another asked."""
    print(writer.loaded.summary())
    if writer.loaded.is_chat:
        _chat(writer, default)
    else:
        _continue_texts(writer, default)


def read_prompt(question: str) -> str | None:
    """A prompt, or None when the user has none left: q, or the end of the input."""
    try:
        return ask_or_quit(styled(question, "bold"))
    except (Quit, UsageError):
        return None
    except UnicodeDecodeError:
        raise PipelineError("the prompt is not valid UTF-8; expected UTF-8 text") from None


def say(error: PipelineError) -> None:
    """A mistake in a prompt; a mistake in the command line cannot be fixed at the next prompt."""
    if isinstance(error, UsageError):
        raise error
    print(styled(visible(str(error)), "red"))


def _continue_texts(writer: Writer, default: GenerationSettings) -> None:
    print("q or Ctrl-D at the prompt ends.")
    while True:
        try:
            prompt = read_prompt("\nPrompt: ")
            if prompt is None:
                return
            ids = writer.prompt_ids(prompt)
            writer.check(ids, default)
            settings = choose_settings(default)
            print(styled(visible(prompt), "bold"), end="", flush=True)
            print(styled(writer.write(ids, settings, output=sys.stdout, may_stop=True)[1].line(), "dim"))
        except PipelineError as error:
            say(error)


def _chat(writer: Writer, settings: GenerationSettings) -> None:
    print("A chat, with its history. /new begins another, /settings changes the parameters, q or Ctrl-D ends.")
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = read_prompt("\nYou: ")
            if question is None:
                return
            if question == "/new":
                messages = []
                print("a new conversation")
            elif question == "/settings":
                settings = choose_settings(settings)
            else:
                messages = _answer(writer, [*messages, {"role": "user", "content": question}], settings)
        except PipelineError as error:
            say(error)


def _answer(writer: Writer, messages: list[dict[str, str]], settings: GenerationSettings) -> list[dict[str, str]]:
    """Writes the answer; the conversation with it, as far as it still fits the model's context."""
    messages, ids = shorten(writer, messages, settings)
    writer.check(ids, settings)
    print(styled("Model: ", "bold", "cyan"), end="", flush=True)
    text, statistics = writer.write(ids, settings, output=sys.stdout, may_stop=True)
    print(styled(statistics.line(), "dim"))
    return [*messages, {"role": "assistant", "content": text.strip() or "…"}]


def shorten(
    writer: Writer, messages: list[dict[str, str]], settings: GenerationSettings
) -> tuple[list[dict[str, str]], list[int]]:
    """Drops the oldest turns until the rest leaves room for an answer; the last question always stays."""
    context = writer.loaded.model.config.context_length
    room = context - min(settings.max_length, context // 2)
    ids = writer.chat_ids(messages)
    dropped = 0
    while len(ids) > room and len(messages) > 2:
        messages, dropped = messages[2:], dropped + 1
        ids = writer.chat_ids(messages)
    if dropped:
        turns = "turn was" if dropped == 1 else f"{dropped} turns were"
        print(styled(f"the oldest {turns} dropped: the context holds {context:,} tokens", "dim"))
    return messages, ids
