"""Chat with a fine-tuned model, with history."""

from collections.abc import Sequence

from pipeline.console.commands import Session, Turn
from pipeline.console.menus import print_mistake
from pipeline.console.streaming_output import Writer
from pipeline.formats.chat_template import Message, fit_prompt
from pipeline.generation.settings import GenerationSettings, check_text, prompt_room
from utils.errors import PipelineError
from utils.terminal import fitting_output, say, styled


def run_chat(writer: Writer, session: Session) -> None:
    """Answer question after question until the user quits."""
    say("Chat with history. /help lists the commands; q or Ctrl-D quits.")
    while True:
        try:
            question = session.next_text("\nYou: ")
            if question is None:
                return
            _answer(writer, question, session)
        except PipelineError as error:
            print_mistake(error)


def _answer(writer: Writer, question: str, session: Session) -> None:
    """Print the answer and add it to the conversation, without the turns that no longer fit the context."""
    messages = [*writer.system_messages, *session.messages, {"role": "user", "content": question}]
    kept, ids = shorten(writer, messages, session.settings)
    writer.check(ids, session.settings)
    label = "Model: "
    print(styled(label, "bold", "cyan"), end="", flush=True)
    text, statistics = writer.write(ids, session.settings, output=fitting_output(len(label)), may_stop=True)
    say(styled(statistics.line(), "dim"))
    session.messages[:] = [
        *(message for message in kept if message["role"] != "system"),
        {"role": "assistant", "content": text.strip() or "…"},
    ]
    session.turns.append(Turn(question, [(writer.loaded.name, text)]))


def shorten(
    writer: Writer, messages: Sequence[Message], settings: GenerationSettings
) -> tuple[Sequence[Message], list[int]]:
    """Drop the oldest turns until there is room for an answer; the last question is always kept.

    Returns:
        The remaining messages and their token ids.
    """
    context = writer.loaded.model.config.context_length
    check_text(messages[-1]["content"])
    room = prompt_room(settings.max_length, context=context)
    fitted = fit_prompt(writer.loaded.tokenizer, messages, room=room, template=writer.loaded.template)
    if fitted.num_dropped:
        turns = "turn was" if fitted.num_dropped == 1 else f"{fitted.num_dropped} turns were"
        say(styled(f"the oldest {turns} dropped: the context is limited to {context:,} tokens", "dim"))
    return fitted.messages, fitted.ids
