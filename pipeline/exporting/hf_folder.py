"""A model as a Hugging Face folder: weights, configuration, tokenizer, model card."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.configuration import config_from_dict
from pipeline.exporting.earlier_export import WEIGHTS_METADATA, WEIGHTS_NAME
from pipeline.exporting.hf_config import generation_config, hf_config, refuse_what_has_no_equal
from pipeline.exporting.hf_names import to_hf_names
from pipeline.exporting.model_card import model_card
from pipeline.formats.chat_template import chat_template
from utils.checksums import write_sums
from utils.files import use_default_mode, write_json, write_text

if TYPE_CHECKING:
    from pipeline.generation.loading import LoadedModel


def write_hf_folder(
    loaded: "LoadedModel",
    directory: Path,
    *,
    dtype: torch.dtype,
    name: str | None = None,
    scores: Mapping[str, object] | None = None,
) -> None:
    """Write the folder; `pipeline.exporting.hf_check` compares it with the model.

    Args:
        name: what the model card calls it; None: the directory's name.

    Raises:
        PipelineError: the model has a property that Llama and Qwen3 lack.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    refuse_what_has_no_equal(model.config)
    # <unk> pads, as no text contains it. With EOS, fine-tuning would mask every EOS along with the padding.
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.unk_id}
    type_name = str(dtype).removeprefix("torch.")
    write_json(directory / "config.json", hf_config(model.config, **ids, dtype=type_name))
    generation = config_from_dict(loaded.content["config"], origin=str(loaded.path)).generation
    write_json(directory / "generation_config.json", generation_config(generation, **ids))
    _write_weights(directory / WEIGHTS_NAME, loaded, dtype)
    _write_tokenizer(directory, loaded)
    write_text(directory / "README.md", model_card(loaded, name=name or directory.name, dtype=type_name, scores=scores))
    # Not over the model card, which people complete by hand.
    write_sums(directory, sorted(path.name for path in directory.iterdir() if path.name != "README.md"))


def _write_weights(path: Path, loaded: "LoadedModel", dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    state = to_hf_names(loaded.model.state_dict(), loaded.model.config)
    # The parts of a fused matrix are views of one storage, which safetensors refuses: each becomes its own.
    state = {name: tensor.to(dtype).clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    save_file(state, path, metadata=WEIGHTS_METADATA)
    _sort_metadata(path)
    use_default_mode(path)  # safetensors lets nobody else read what it writes


def _sort_metadata(path: Path) -> None:
    """Give a safetensors file the same bytes each time, and force it to disk: its writer does neither."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(content) == length, f"{path}: the header has {len(content)} bytes, expected {length}"
        file.seek(8)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_tokenizer(directory: Path, loaded: "LoadedModel") -> None:
    """Write a `PreTrainedTokenizerFast`: transformers 5 rebuilds a LlamaTokenizer's tokenizer.json, wrongly."""
    vocabulary = loaded.tokenizer.vocabulary
    bos, eos, unk = (
        vocabulary.pieces[token_id] for token_id in (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id)
    )
    content = json.loads(vocabulary.to_json(added_tokens=True))
    content["post_processor"] = _bos_first(bos, vocabulary.bos_id)
    write_text(directory / "tokenizer.json", json.dumps(content, ensure_ascii=False))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "pad_token": unk,
        "model_max_length": loaded.model.config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    write_json(directory / "tokenizer_config.json", settings)
    if loaded.is_chat:
        write_text(directory / "chat_template.jinja", chat_template(template=loaded.template))


def _bos_first(bos: str, bos_id: int) -> dict[str, object]:
    """A post-processor that puts BOS before every text."""

    def special() -> dict[str, object]:
        return {"SpecialToken": {"id": bos, "type_id": 0}}

    def text(name: str, type_id: int) -> dict[str, object]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {
        "type": "TemplateProcessing",
        "single": [special(), text("A", 0)],
        "pair": [special(), text("A", 0), text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
