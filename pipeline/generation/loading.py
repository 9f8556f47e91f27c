"""Load a checkpoint for generation: its model and its tokenizer.

loaded = load_for_inference("latest", config, device="auto")
loaded = load_for_inference("tuned=checkpoints/sft_lima_2026_01_01_10_00", config)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import TransformerLM, load_model
from pipeline.configuration import Config
from pipeline.formats.chat_template import TEMPLATE_NAME, WITHOUT_SYSTEM, check_template
from pipeline.formats.checkpoint import read_checkpoint, refuse_without_config
from pipeline.formats.checkpoint_tokenizer import tokenizer_of
from pipeline.formats.run_folders import find_checkpoint
from pipeline.modeling.quantization import quantize_int8
from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer, load_tokenizer
from utils.devices import choose_dtype, resolve_device
from utils.errors import UsageError
from utils.terminal import format_count, visible


@dataclass(frozen=True)
class LoadedModel:
    """A model and its tokenizer. `content` is the checkpoint without its tensors."""

    name: str
    path: Path
    model: TransformerLM
    tokenizer: WikipediaTokenizer
    content: Mapping[str, Any]

    @property
    def is_chat(self) -> bool:
        """Whether it was fine-tuned on conversations."""
        return bool(self.content.get("chat_template"))

    @property
    def template(self) -> str:
        """The name of the chat template that it was fine-tuned with; the current one for a base model."""
        return str(self.content.get("chat_template") or TEMPLATE_NAME)

    @property
    def has_system_turn(self) -> bool:
        """Whether its template has a place of its own for a system message."""
        return self.template != WITHOUT_SYSTEM

    def summary(self) -> str:
        """``run_2026_01_01_10_00: 24.9M parameters, step 1,200, context 1,024``"""
        step = f", step {self.content['step']:,}" if isinstance(self.content.get("step"), int) else ""
        # Counted in the state dict, because int8 weights are buffers instead of parameters and come with scales.
        state = self.model.state_dict()
        count = sum(tensor.numel() for name, tensor in state.items() if not name.endswith(".scale"))
        context = self.model.config.context_length
        return f"{visible(self.name)}: {format_count(count)} parameters{step}, context {context:,}"


def load_all(
    arguments: Sequence[str], config: Config, *, device: str = "auto", dtype: str = "auto", quantize: str = "none"
) -> list[LoadedModel]:
    """Load each of `arguments` with `load_for_inference`.

    Raises:
        UsageError: two of them have the same name.
    """
    loaded: dict[str, LoadedModel] = {}
    for argument in arguments:
        model = load_for_inference(argument, config, device=device, dtype=dtype, quantize=quantize)
        if model.name in loaded:
            raise UsageError(
                f"two checkpoints are named {model.name}; give them different names: --checkpoint "
                f"a={loaded[model.name].path} --checkpoint b={model.path}"
            )
        loaded[model.name] = model
    return list(loaded.values())


def load_for_inference(
    argument: str, config: Config, *, device: str = "auto", dtype: str = "auto", quantize: str = "none"
) -> LoadedModel:
    """The model of ``[NAME=]PATH``, where PATH is a file, a run's folder, or ``latest``.

    Args:
        dtype: ``auto``: bfloat16 on CUDA, float32 elsewhere.
        quantize: ``int8`` or ``none``.

    Raises:
        PipelineError: the checkpoint does not exist or is not ours, or its tokenizer cannot be found.
    """
    name, path = find_named_checkpoint(argument, config.paths.checkpoint_dir)
    content = read_checkpoint(path)
    refuse_without_config(content, path)
    if content.get("chat_template"):
        check_template(content["chat_template"], origin=f"checkpoint {path}")

    def load(directory: Path) -> WikipediaTokenizer:
        is_configured = directory == config.paths.tokenizer_dir
        return load_tokenizer(directory, name=config.tokenizer.name if is_configured else None)

    tokenizer = tokenizer_of(content, [config.paths.tokenizer_dir], load, origin=f"checkpoint {path}")
    target = resolve_device(device)
    model = load_model(
        path,
        device=target,
        dtype=choose_dtype(dtype, target),
        rope_scaling=config.model.rope_scaling,
        rope_scaling_factor=config.model.rope_scaling_factor,
    )
    model.eos_id = tokenizer.eos_id
    if quantize == "int8":
        quantize_int8(model)
    described = {key: value for key, value in content.items() if key not in ("model", "optimizer", "scheduler", "rng")}
    return LoadedModel(name, path, model, tokenizer, described)


def find_named_checkpoint(argument: str, checkpoint_dir: Path) -> tuple[str, Path]:
    """``[NAME=]PATH`` → (name, file). The default name is the run's, plus the file's if that is not the latest."""
    name, equals, place = argument.partition("=")
    if not equals or Path(argument).exists():
        name, place = "", argument
    path = find_checkpoint(place, checkpoint_dir)
    kind = path.stem.removeprefix("checkpoint_")
    default = path.parent.name if kind == "latest" else f"{path.parent.name}/{kind}"
    return name or default, path
