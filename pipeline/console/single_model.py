"""One model in the terminal: prompt after prompt, or a chat if the model was fine-tuned on conversations."""

from pipeline.console.chat import run_chat
from pipeline.console.commands import Session, Turn
from pipeline.console.menus import choose_settings, print_mistake
from pipeline.console.streaming_output import Writer
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError
from utils.terminal import fitting_output, say, styled, visible


def run_single(writer: Writer, default: GenerationSettings, *, asks_settings: bool) -> None:
    """Answer prompts until the user quits. After a mistake in a prompt, print the error and ask again.

    Args:
        asks_settings: ask for the parameters once, after the first prompt; later, /settings changes them.
    """
    say(writer.loaded.summary())
    session = Session(default, [writer])
    if writer.loaded.is_chat:
        run_chat(writer, session)
    else:
        _continue_texts(writer, session, asks_settings)


def _continue_texts(writer: Writer, session: Session, asks_settings: bool) -> None:
    say("The model continues your text. /help lists the commands; q or Ctrl-D quits.")
    while True:
        try:
            prompt = session.next_text("\nPrompt: ")
            if prompt is None:
                return
            ids = writer.prompt_ids(prompt)
            writer.check(ids, session.settings)
            if asks_settings:
                session.settings = choose_settings(session.settings)
                asks_settings = False
            output = fitting_output()
            output.write(styled(visible(prompt), "bold"))
            text, statistics = writer.write(ids, session.settings, output=output, may_stop=True)
            say(styled(statistics.line(), "dim"))
            session.turns.append(Turn(prompt, [(writer.loaded.name, prompt + text)]))
        except PipelineError as error:
            print_mistake(error)
