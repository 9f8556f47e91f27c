"""The key-value cache: cached logits equal uncached ones for every attention option and uneven rows."""

import pytest
import torch

from model import TransformerLM
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.ragged_rows import RaggedRows

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
OPTIONS = [
    {"num_attention_heads": heads, "num_key_value_heads": groups, "qk_norm": qk_norm, "norm": norm}
    for heads, groups in ((4, 4), (4, 2), (4, 1))
    for qk_norm, norm in ((False, "rms"), (True, "layer"))
] + [
    {"num_attention_heads": 2, "num_key_value_heads": 1, "activation": "geglu", "tie_word_embeddings": False},
    {"num_attention_heads": 2, "num_key_value_heads": 2, "activation": "reglu", "rope_theta": 500.0},
    {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_scaling": "yarn", "rope_scaling_factor": 2.0},
]


def small_model(**options):
    torch.manual_seed(0)
    config = ModelConfig(**SMALL | {"max_position_embeddings": 64, "num_attention_heads": 4} | options)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # at the initial scale every token gets nearly the same logits
    return model


def new_cache(model, *, rows=1, length=64):
    return KVCache(model.config, batch_size=rows, max_length=length, device="cpu", dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cached_logits_equal_uncached(options):
    model = small_model(**options)
    ids = torch.randint(0, 97, (2, 20))
    expected = model(ids)["logits"]
    cache = new_cache(model, rows=2)
    parts = [model(part, cache=cache)["logits"] for part in ids.split((7, 1, 1, 5, 6), dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_of_uneven_length_equal_each_row_alone(options):
    model = small_model(**options)
    lengths = [3, 11, 7]
    rows = [torch.randint(0, 97, (length + 4,)) for length in lengths]
    padded = torch.zeros(3, 11, dtype=torch.long)
    for i, length in enumerate(lengths):
        padded[i, :length] = rows[i][:length]
    cache = new_cache(model, rows=3)
    model(padded, cache=cache)
    cache.truncate(lengths)
    for steps in (1, 1, 2):  # one token per row, then two together
        start = list(cache.lengths)
        tokens = torch.stack([rows[i][start[i] : start[i] + steps] for i in range(3)])
        logits = model(tokens, cache=cache)["logits"]
        for i in range(3):
            alone = model(rows[i][None, : start[i] + steps])["logits"][0, -steps:]
            assert torch.allclose(logits[i], alone, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_reading_and_generating_in_one_pass_equal_each_row_alone(options):
    model = small_model(**options)
    texts = [torch.randint(0, 97, (20,)) for _ in range(5)]
    cache = new_cache(model, rows=6)  # the last row is not in use
    done = [0] * 5
    # Single tokens, new prompts, a prompt in parts, and a single token after a longer row.
    for counts in ([3, 7], [1, 1, 4, 9], [1, 1, 1, 2, 1], [1, 1, 5, 1, 1]):
        tokens = [texts[row][done[row] : done[row] + count] for row, count in enumerate(counts)]
        hidden = model.hidden_states(torch.cat(tokens)[None], cache=RaggedRows(cache, counts))[0]
        for row, part in enumerate(hidden.split(counts)):
            done[row] += counts[row]
            alone = model.hidden_states(texts[row][None, : done[row]])[0, -counts[row] :]
            assert torch.allclose(part, alone, atol=1e-4)
        assert cache.lengths == [*done, 0]


@torch.no_grad()
def test_swapped_rows_continue_like_the_originals():
    model = small_model()
    ids = torch.randint(0, 97, (2, 9))
    cache = new_cache(model, rows=2)
    model(ids, cache=cache)
    cache.truncate([9, 5])
    expected = [
        model(torch.cat([ids[row, :length], torch.tensor([5])])[None])["logits"][0, -1]
        for row, length in ((1, 5), (0, 9))
    ]
    cache.swap_rows(0, 1)
    assert cache.lengths == [5, 9]
    logits = model(torch.tensor([[5], [5]]), cache=cache)["logits"][:, -1]
    assert torch.allclose(logits, torch.stack(expected), atol=1e-4)


@torch.no_grad()
def test_a_view_shares_memory_and_lengths():
    model = small_model()
    ids = torch.randint(0, 97, (1, 6))
    cache = new_cache(model, rows=3)
    view = cache.rows(1, 2)
    model(ids, cache=view)
    assert view.lengths == [6]
    assert cache.lengths == [0, 6, 0]
    assert cache.keys[1].abs().sum() > 0
    assert cache.keys[0].abs().sum() == 0


@torch.no_grad()
def test_truncated_positions_are_not_visible():
    model = small_model()
    ids = torch.randint(0, 97, (1, 12))
    cache = new_cache(model)
    model(ids, cache=cache)
    cache.truncate(5)
    logits = model(ids[:, 5:6], cache=cache)["logits"]
    assert torch.allclose(logits, model(ids[:, :6])["logits"][:, -1:], atol=1e-4)


def test_a_full_cache_is_not_overrun():
    model = small_model()
    cache = new_cache(model, length=4)
    with pytest.raises(AssertionError, match="5 positions do not fit in a cache of 4"):
        model(torch.zeros(1, 5, dtype=torch.long), cache=cache)
