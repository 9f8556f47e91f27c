"""Answer one prompt and exit: ``Inference.py --checkpoint … --prompt …``, as text or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.console.comparison import check_all, compare, show
from pipeline.console.load_models import ModelRequest, load_writers
from pipeline.console.streaming_output import Writer
from pipeline.generation.settings import GenerationSettings, check_text
from utils.errors import PipelineError

# JSON may contain DEL and C1 characters unescaped, but some terminals obey them.
_ESCAPED = {code: f"\\u{code:04x}" for code in range(127, 160)}


def answer(request: ModelRequest, prompt: str, settings: GenerationSettings, *, as_json: bool = False) -> int:
    """Continue `prompt` (``-``: standard input): the text on standard output, the statistics on standard error."""
    prompt = check_text(_standard_input() if prompt == "-" else prompt)
    writers = load_writers(request)
    check_all(writers, prompt, settings)
    if as_json:
        print(_results_json(writers, prompt, settings))
    elif len(writers) == 1:
        _, statistics = writers[0].write(writers[0].prompt_ids(prompt), settings, output=sys.stdout)
        print(statistics.line(), file=sys.stderr)
    else:
        show(compare(writers, prompt, settings))
    return 0


def _results_json(writers: Sequence[Writer], prompt: str, settings: GenerationSettings) -> str:
    results = [result.to_dict() for result in compare(writers, prompt, settings)]
    content = {"prompt": prompt, "settings": asdict(settings), "results": results}
    return json.dumps(content, ensure_ascii=False).translate(_ESCAPED)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError(f"the prompt is not valid UTF-8 (invalid byte at offset {error.start})") from None
