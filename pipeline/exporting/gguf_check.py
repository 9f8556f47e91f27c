"""A GGUF file read again and compared with the original: all tensors, and by llama.cpp itself where it is installed."""

import copy
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.exporting.gguf_file import architecture, gguf_tensors
from pipeline.exporting.hf_check import TEXTS, greedy_prompts
from pipeline.generation.generate import GenerationSettings, generate_batch
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.generation.loading import LoadedModel

# llama.cpp's own rounding in float32 stays below 1e-5 of the largest logit; its products of half-size weights round the
# activations too.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_NEW_TOKENS = 24


def check_gguf_file(path: Path, loaded: "LoadedModel", *, dtype: torch.dtype) -> dict[str, Any]:
    """Compares tensors and vocabulary and, where llama-cpp-python is installed, tokens, logits and greedy tokens.

    Raises:
        PipelineError: something differs.
    """
    num_tensors = _compare_contents(path, loaded, dtype)
    if importlib.util.find_spec("llama_cpp") is None:
        return {"tensors": num_tensors}
    return {"tensors": num_tensors, **_compare_with_llama_cpp(path, loaded, dtype)}


def _compare_contents(path: Path, loaded: "LoadedModel", dtype: torch.dtype) -> int:
    import gguf

    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    wanted = gguf_tensors(_as_stored(loaded.model, dtype))
    if found.keys() != wanted.keys():
        raise PipelineError(f"{path}: its tensors are not the model's: {sorted(found.keys() ^ wanted.keys())}")
    for name, tensor in wanted.items():
        values = gguf.quants.dequantize(found[name].data, found[name].tensor_type).reshape(tensor.shape)
        if not np.array_equal(values, tensor.float().numpy()):
            raise PipelineError(f"{path}: tensor {name} differs from the checkpoint's; nothing was exported")
    pieces = [piece.encode("utf-8") for piece in loaded.tokenizer.vocabulary.pieces]
    tokens = reader.fields["tokenizer.ggml.tokens"]
    stored = [bytes(tokens.parts[place]) for place in tokens.data]
    if stored != pieces or reader.fields["general.architecture"].contents() != architecture(loaded.model.config):
        raise PipelineError(f"{path}: its vocabulary or architecture is not the checkpoint's; nothing was exported")
    return len(wanted)


def _compare_with_llama_cpp(path: Path, loaded: "LoadedModel", dtype: torch.dtype) -> dict[str, Any]:
    import llama_cpp

    ours, tokenizer = _as_stored(loaded.model, dtype), loaded.tokenizer
    length = min(ours.config.context_length, 128)
    options = {"n_ctx": length, "n_batch": length, "n_gpu_layers": 0, "logits_all": True, "verbose": False, "seed": 0}
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    theirs = llama_cpp.Llama(str(path), **options, **exact)
    for text in TEXTS:
        ids = theirs.tokenize(text.encode("utf-8"), add_bos=True, special=False)
        if ids != tokenizer.encode(text, add_bos=True):
            raise PipelineError(f"{path}: llama.cpp tokenizes {text!r} as {ids}; nothing was exported")
    difference = _logit_difference(ours, theirs, length)
    if not difference <= TOLERANCES[dtype]:
        raise PipelineError(
            f"{path}: llama.cpp's logits differ from the checkpoint's by {difference:.2e} of the largest; expected at "
            f"most {TOLERANCES[dtype]:.0e}; nothing was exported"
        )
    tokens = _compare_greedy_tokens(ours, theirs, tokenizer, path) if dtype == torch.float32 else 0
    return {"logit_difference": difference, "greedy_tokens": tokens}


@torch.no_grad()
def _as_stored(model: Any, dtype: torch.dtype) -> Any:
    """`model` in float32 with its matrices as the file holds them."""
    if dtype == torch.float32:
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.to(dtype))
    return model


@torch.no_grad()
def _logit_difference(ours: Any, theirs: Any, length: int) -> float:
    ids = torch.randint(3, ours.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))  # (1, T)
    theirs.reset()
    theirs.eval(ids[0].tolist())
    found = torch.from_numpy(np.array(theirs.scores[:length]))  # (T, V)
    wanted = ours(ids)["logits"][0].float()
    return float(((found - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item())


def _compare_greedy_tokens(ours: Any, theirs: Any, tokenizer: Any, path: Path) -> int:
    prompts = greedy_prompts(tokenizer)
    settings = GenerationSettings(max_length=_NEW_TOKENS, temperature=0.0)
    for prompt, wanted in zip(prompts, generate_batch(ours, prompts, settings, tokenizer=tokenizer), strict=True):
        theirs.reset()
        found: list[int] = []
        for token in theirs.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(token)
            if len(found) == len(wanted):
                break
        if found != wanted:
            raise PipelineError(f"{path}: llama.cpp's greedy tokens are {found}, the checkpoint's {wanted}")
    return _NEW_TOKENS * len(prompts)
