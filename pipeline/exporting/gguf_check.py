"""Read a GGUF file and compare it with the original: all tensors, and llama.cpp's answers if it is installed."""

import copy
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from model import TransformerLM
from pipeline.exporting.comparison import NEW_TOKENS, TEXTS, Comparison, greedy_prompts, largest_difference, random_ids
from pipeline.exporting.gguf_file import architecture, gguf_tensors
from pipeline.generation.generate import GenerationSettings, generate_batch
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError

if TYPE_CHECKING:
    from llama_cpp import Llama

    from pipeline.generation.loading import LoadedModel

# llama.cpp's own rounding in float32 stays below 1e-5 of the largest logit; its products of half-size weights round the
# activations too.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def check_gguf_file(path: Path, loaded: "LoadedModel", *, dtype: torch.dtype) -> Comparison:
    """Compare tensors and vocabulary and, if llama-cpp-python is installed, tokens, logits and greedy tokens.

    Raises:
        PipelineError: something differs.
    """
    num_tensors = _compare_contents(path, loaded, dtype)
    if importlib.util.find_spec("llama_cpp") is None:
        return {"tensors": num_tensors}
    return {**_compare_with_llama_cpp(path, loaded, dtype), "tensors": num_tensors}


def _compare_contents(path: Path, loaded: "LoadedModel", dtype: torch.dtype) -> int:
    import gguf

    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    expected = gguf_tensors(_as_stored(loaded.model, dtype))
    if found.keys() != expected.keys():
        raise PipelineError(f"{path}: tensor names do not match the model's: {sorted(found.keys() ^ expected.keys())}")
    for name, tensor in expected.items():
        values = gguf.quants.dequantize(found[name].data, found[name].tensor_type).reshape(tensor.shape)
        if not np.array_equal(values, tensor.float().numpy()):
            raise PipelineError(f"{path}: tensor {name} differs from the checkpoint's; nothing was exported")
    pieces = [piece.encode("utf-8") for piece in loaded.tokenizer.vocabulary.pieces]
    tokens = reader.fields["tokenizer.ggml.tokens"]
    stored = [bytes(tokens.parts[place]) for place in tokens.data]
    if stored != pieces or reader.fields["general.architecture"].contents() != architecture(loaded.model.config):
        raise PipelineError(
            f"{path}: the vocabulary or architecture does not match the checkpoint's; nothing was exported"
        )
    return len(expected)


def _compare_with_llama_cpp(path: Path, loaded: "LoadedModel", dtype: torch.dtype) -> Comparison:
    import llama_cpp

    ours, tokenizer = _as_stored(loaded.model, dtype), loaded.tokenizer
    length = min(ours.config.context_length, 128)
    options = {"n_ctx": length, "n_batch": length, "n_gpu_layers": 0, "logits_all": True, "verbose": False, "seed": 0}
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    theirs = llama_cpp.Llama(str(path), **options, **exact)
    for text in TEXTS:
        ids = theirs.tokenize(text.encode("utf-8"), add_bos=True, special=False)
        if ids != tokenizer.encode(text, add_bos=True):
            raise PipelineError(f"{path}: llama.cpp tokenizes {text!r} differently, as {ids}; nothing was exported")
    difference = _logit_difference(ours, theirs, length)
    if not difference <= TOLERANCES[dtype]:
        raise PipelineError(
            f"{path}: llama.cpp's logits differ from the checkpoint's by {difference:.2e} relative to the "
            f"largest; expected at most {TOLERANCES[dtype]:.0e}; nothing was exported"
        )
    tokens = _compare_greedy_tokens(ours, theirs, tokenizer, path) if dtype == torch.float32 else 0
    return {"logit_difference": difference, "greedy_tokens": tokens}


@torch.no_grad()
def _as_stored(model: TransformerLM, dtype: torch.dtype) -> TransformerLM:
    """`model` in float32 with its matrices as the file holds them."""
    if dtype == torch.float32:
        return model
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.to(dtype))
    return model


@torch.no_grad()
def _logit_difference(ours: TransformerLM, theirs: "Llama", length: int) -> float:
    ids = random_ids(ours.config.vocab_size, (1, length), first=3)  # without the special ids
    theirs.reset()
    theirs.eval(ids[0].tolist())
    found = torch.from_numpy(np.array(theirs.scores[:length]))  # (T, V)
    return largest_difference(found, ours(ids)["logits"][0].float())


def _compare_greedy_tokens(ours: TransformerLM, theirs: "Llama", tokenizer: Tokenizer, path: Path) -> int:
    prompts = greedy_prompts(tokenizer)
    settings = GenerationSettings(max_length=NEW_TOKENS, temperature=0.0)
    for prompt, expected in zip(prompts, generate_batch(ours, prompts, settings, tokenizer=tokenizer), strict=True):
        theirs.reset()
        found: list[int] = []
        for token in theirs.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(token)
            if len(found) == len(expected):
                break
        if found != expected:
            raise PipelineError(f"{path}: llama.cpp's greedy tokens are {found}, but the checkpoint's are {expected}")
    return NEW_TOKENS * len(prompts)
