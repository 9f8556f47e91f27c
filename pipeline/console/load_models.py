"""Load the chosen checkpoints; several are first checked against free memory.

writers = load_writers(ModelRequest(["latest"], config, "auto"))
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.configuration import Config
from pipeline.console.comparison import memory_report
from pipeline.console.menus import confirm
from pipeline.console.streaming_output import Writer
from pipeline.console.system_message import set_system_message
from pipeline.generation.loading import find_named_checkpoint, load_all
from utils.devices import describe_device, resolve_device
from utils.terminal import styled


@dataclass(frozen=True)
class ModelRequest:
    """Which checkpoints to load, and where. `checkpoints` are ``[NAME=]PATH``; if empty, the user chooses in menus.

    `system` is a system message for all conversations, or empty.
    """

    checkpoints: Sequence[str]
    config: Config
    device: str
    system: str = ""


def load_writers(request: ModelRequest, *, may_ask: bool = False) -> list[Writer]:
    """Load the requested models. Several are warmed up, so that their speeds can be compared.

    Raises:
        PipelineError: a system message for a base model.
        Quit: the models may not fit into memory, and the user, asked if `may_ask` is true, does not want to try.
    """
    print(f"device: {describe_device(resolve_device(request.device))}", file=sys.stderr)
    is_comparison = len(request.checkpoints) > 1
    if is_comparison:
        _check_memory(request, may_ask=may_ask)
    chosen = request.config.generation
    loaded = load_all(
        request.checkpoints, request.config, device=request.device, dtype=chosen.dtype, quantize=chosen.quantize
    )
    writers = [Writer(model, chosen.compile) for model in loaded]
    if request.system:
        set_system_message(writers, request.system)
    if is_comparison:
        for writer in writers:
            writer.warm_up()
    return writers


def _check_memory(request: ModelRequest, *, may_ask: bool) -> None:
    chosen = request.config.generation
    folder = request.config.paths.checkpoint_dir
    paths = [find_named_checkpoint(argument, folder)[1] for argument in request.checkpoints]
    line, fits = memory_report(paths, device=request.device, dtype=chosen.dtype, quantize=chosen.quantize)
    print(line if fits else styled(f"warning: {line}", "yellow", stream=sys.stderr), file=sys.stderr)
    if not fits and may_ask:
        confirm("Load them anyway?")
