"""One model in the terminal: prompt after prompt, or a chat if the model was fine-tuned on conversations."""

import sys

from pipeline.console.chat import run_chat
from pipeline.console.menus import choose_settings, print_mistake, read_prompt
from pipeline.console.streaming_output import Writer
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError
from utils.terminal import styled, visible


def run_single(writer: Writer, default: GenerationSettings) -> None:
    """Answer prompts until the user quits. After a mistake in a prompt, print the error and ask again."""
    print(writer.loaded.summary())
    if writer.loaded.is_chat:
        run_chat(writer, default)
    else:
        _continue_texts(writer, default)


def _continue_texts(writer: Writer, default: GenerationSettings) -> None:
    print("q or Ctrl-D at the prompt quits.")
    while True:
        try:
            prompt = read_prompt("\nPrompt: ")
            if prompt is None:
                return
            ids = writer.prompt_ids(prompt)
            writer.check(ids, default)
            settings = choose_settings(default)
            print(styled(visible(prompt), "bold"), end="", flush=True)
            _, statistics = writer.write(ids, settings, output=sys.stdout, may_stop=True)
            print(styled(statistics.line(), "dim"))
        except PipelineError as error:
            print_mistake(error)
