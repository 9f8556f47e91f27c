"""Write a model as a GGUF file for llama.cpp, ollama and the like: architecture llama, or qwen3 with QK-norm.

For the llama architecture llama.cpp rotates neighbouring values of a query; Hugging Face and this project rotate its
halves. So the rows of q and k are reordered. For qwen3 llama.cpp rotates halves too.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from model import TransformerLM
from pipeline.exporting.hf_config import refuse_what_has_no_equal, rope_parameters
from pipeline.exporting.hf_names import to_hf_names
from pipeline.formats.chat_template import chat_template
from pipeline.modeling.config import ModelConfig
from pipeline.tokenization.vocabulary import Vocabulary, byte_of
from utils.errors import PipelineError

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from pipeline.generation.loading import LoadedModel

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf_file(loaded: "LoadedModel", path: Path, *, dtype: torch.dtype) -> None:
    """Write the file, with norms in float32 as llama.cpp expects them; `gguf_check` compares it with the model.

    Raises:
        PipelineError: the model has something that llama.cpp's llama and qwen3 do not have, or its tokenizer has
            another number of tokens.
    """
    import gguf

    config = loaded.model.config
    refuse_what_has_no_equal(config)
    num_pieces = len(loaded.tokenizer.vocabulary.pieces)
    if num_pieces != config.vocab_size:  # llama.cpp would refuse the file
        raise PipelineError(
            f"the tokenizer of {loaded.name} has {num_pieces:,} tokens, but the model has {config.vocab_size:,}; "
            "expected the tokenizer that it was trained with: pass --tokenizer DIR"
        )
    writer = gguf.GGUFWriter(path, architecture(config))
    _add_description(writer, loaded, dtype)
    _add_vocabulary(writer, loaded.tokenizer.vocabulary)
    if loaded.is_chat:
        writer.add_chat_template(chat_template(template=loaded.template, mark_answers=False))
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    for name, tensor in gguf_tensors(loaded.model).items():
        quantization = gguf.GGMLQuantizationType["F32" if tensor.dim() == 1 else kind]
        values = gguf.quants.quantize(tensor.float().numpy(), quantization)
        writer.add_tensor(name, values, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture(config: ModelConfig) -> str:
    return "qwen3" if config.qk_norm else "llama"


def gguf_tensors(model: TransformerLM) -> dict[str, torch.Tensor]:
    """The weights under GGUF's names and in its order of rows, on the CPU."""
    config = model.config
    result = {}
    for name, tensor in to_hf_names(model.state_dict(), config).items():
        tensor = tensor.detach().cpu()
        if architecture(config) == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            tensor = pair_rows(tensor, heads)
        result[gguf_name(name)] = tensor.contiguous()
    return result


def gguf_name(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` → ``blk.3.ffn_up.weight``"""
    module = name.removesuffix(".weight")
    if not module.startswith("model.layers."):
        return f"{_NAMES[module]}.weight"
    layer, _, part = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_NAMES[part]}.weight"


def pair_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Each head's rows from halves (i, i + D/2) to neighbours (2i, 2i + 1); `weight` is (H·D, C)."""
    halves = weight.view(heads, 2, -1, weight.shape[1])  # (H, 2, D/2, C)
    return halves.transpose(1, 2).reshape(weight.shape)


def _add_description(writer: "GGUFWriter", loaded: "LoadedModel", dtype: torch.dtype) -> None:
    import gguf

    config = loaded.model.config
    writer.add_name(loaded.name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    rope = rope_parameters(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if "factor" in rope:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(config.max_position_embeddings)
    kinds = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[kinds[dtype]])


def _add_vocabulary(writer: "GGUFWriter", vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.encode("utf-8") for piece in vocabulary.pieces])
    writer.add_token_scores(piece_scores(vocabulary).tolist())
    writer.add_token_types([_token_type(vocabulary, token_id) for token_id in range(len(vocabulary.pieces))])
    writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_unk_token_id(vocabulary.unk_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def piece_scores(vocabulary: Vocabulary) -> np.ndarray:
    """Minus the rank of the merge that makes each piece: llama.cpp first merges the pair with the highest score."""
    first_rank: dict[str, int] = {}
    for rank, (left, right) in enumerate(vocabulary.merges):
        first_rank.setdefault(left + right, rank)
    never = len(vocabulary.merges)
    return np.array([-first_rank.get(piece, never) for piece in vocabulary.pieces], dtype=np.float32)


def _token_type(vocabulary: Vocabulary, token_id: int) -> int:
    import gguf

    if token_id == vocabulary.unk_id:
        return gguf.TokenType.UNKNOWN
    if token_id in vocabulary.controls:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.NORMAL if byte_of(vocabulary.pieces[token_id]) is None else gguf.TokenType.BYTE
