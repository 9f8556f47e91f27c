"""The compiled decode step, loaded from a disk cache or compiled once per model shape.

    decoder = compiled_decoder(model, "auto")           # None if there is none
    stream_text(model, tokenizer, prompt, settings, decoder=decoder)

Compiling takes up to a minute, which a short answer never earns back, so `auto` uses a step from the cache and only
`on` compiles one. The file contains code but no weights, so all checkpoints of the same shape share it.
"""

import hashlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from model import TransformerLM
from pipeline.generation import decode_step
from pipeline.generation.decode_step import DecodeStep
from pipeline.modeling.compiler import cpp_compiler_problem
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.quantization import Int8Weight
from utils.errors import PipelineError
from utils.files import make_folder, move_into_place


def compiled_decoder(model: TransformerLM, mode: str) -> "CompiledDecoder | None":
    """A decoder for `BatchGenerator`, or None to use the model's own forward.

    Args:
        mode: ``off``; ``auto``: only if it is in the cache; ``on``: compile it if necessary.

    Raises:
        PipelineError: `on`, but the device is not a CPU, there is no compiler, or compiling would make it slower.
    """
    if mode == "off":
        return None
    problem = _problem(model)
    path = cache_path(model)
    if mode == "auto" and (problem or not path.exists()):
        return None
    if problem:
        raise PipelineError(f"generation.compile is on, but {problem}; use --set generation.compile=auto")
    if not path.exists():
        _compile(model, path)
    return CompiledDecoder(model, path)


def cache_path(model: TransformerLM) -> Path:
    """The file of the compiled step for this model's shape; its name depends on everything that affects the code."""
    config = model.config
    options = [config.num_attention_heads, config.num_key_value_heads, config.activation, config.norm, config.norm_eps]
    content = {
        "options": options,
        "weights": {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in model.state_dict().items()},
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "source": Path(decode_step.__file__).read_text(encoding="utf-8"),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "language-model-pipeline" / f"decode_{key}.pt2"


def _problem(model: TransformerLM) -> str:
    """Why the step cannot be compiled here, or an empty string."""
    if model.device.type != "cpu":
        return f"it only works on the CPU, and the model is on {model.device.type}"
    if isinstance(model.head, Int8Weight) and torch.backends.cpu.get_cpu_capability() != "AVX512":
        # The compiled loop converts int8 one value at a time: 30 ms for 32,016 × 384, the library's product 0.9.
        return "int8 weights are slower compiled on processors without AVX-512"
    return cpp_compiler_problem()


def _compile(model: TransformerLM, path: Path) -> None:
    """Compile the step and write it to `path` atomically."""
    print("compiling the decode step for this model shape (takes about a minute, only once) …", file=sys.stderr)
    config = model.config
    keys = torch.zeros(config.num_hidden_layers, config.num_key_value_heads, 64, config.head_dim, dtype=model.dtype)
    angles = torch.ones(config.head_dim // 2)
    example = (torch.zeros(1, dtype=torch.long), angles, angles.clone(), keys, keys.clone(), torch.zeros(40))
    size, past = torch.export.Dim("size", min=8, max=2**20), torch.export.Dim("past", min=1, max=2**20 - 1)
    shapes = (None, None, None, {2: size}, {2: size}, {0: past})
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch warns about its own modules
        program = torch.export.export(DecodeStep(model), example, dynamic_shapes=shapes)
        options = {"aot_inductor.package_constants_in_so": False}
        made = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / "step.pt2"), inductor_configs=options
        )
        move_into_place(Path(made), path)


class CompiledDecoder:
    """Decode a single row with the compiled step."""

    def __init__(self, model: TransformerLM, path: Path) -> None:
        self._model = model
        # torch._inductor.aoti_load_package wraps this. The call takes a millisecond, but importing torch._inductor
        # takes longer than a short answer.
        self._step = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        weights = DecodeStep(model).state_dict()
        constants = {name: weights[name] for name in self._step.get_constant_fqns()}
        use_inactive = False
        check_full_update = True  # update all constants
        user_managed = True  # use the model's memory instead of a copy
        self._step.load_constants(constants, use_inactive, check_full_update, user_managed)
        self._constants = constants  # keep them alive, because the step only borrows them
        self._past = torch.zeros(model.config.context_length)

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, V) of a token (1,), whose keys and values go into the row of `cache`."""
        length = cache.lengths[0]
        rotary = self._model.model.rotary
        past = self._past[:length]
        logits, keys, values = self._step.boxed_run(
            [tokens, rotary.cos[length], rotary.sin[length], cache.keys[0], cache.values[0], past]
        )
        cache.keys[0, :, :, length] = keys
        cache.values[0, :, :, length] = values
        cache.advance(1)
        return logits[None]  # (1, V)
