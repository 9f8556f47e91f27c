"""The prefix cache: the same tokens with and without it, bounded memory, the least recently used goes first."""

from dataclasses import replace

import pytest
import torch

from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.generate import GenerationSettings, stream_tokens
from pipeline.generation.prefix_cache import BLOCK, PrefixCache
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.quantization import quantize_int8
from tests.small_models import decisive_model

PLENTY = 10_000_000  # bytes
GREEDY = GenerationSettings(max_length=20, temperature=0.0)
SEEDED = GenerationSettings(max_length=20, temperature=1.0, seed=7)


def small_model():
    return decisive_model(vocab_size=90, context=128)


@pytest.fixture(scope="module")
def model():
    return small_model()


def run(batch, prompts):
    """The tokens of each prompt and how many of its tokens were known, all in one batch."""
    numbers = [batch.join(ids, settings) for ids, settings in prompts]
    tokens = {number: [] for number in numbers}
    cached = dict.fromkeys(numbers, 0)
    while batch.num_rows:
        for event in batch.step():
            tokens[event.row].append(event.token_id)
            cached[event.row] += event.num_cached
    return [tokens[number] for number in numbers], [cached[number] for number in numbers]


def whole_blocks(length):
    return length // BLOCK * BLOCK


@pytest.mark.parametrize("settings", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_a_conversation_gets_the_same_tokens_with_and_without(model, settings):
    batch = BatchGenerator(model, prefix_cache=PrefixCache(PLENTY))
    ids = [1, *range(10, 25)]
    for turn in range(4):
        expected = list(stream_tokens(model, ids, settings))
        [tokens], [cached] = run(batch, [(ids, settings)])
        assert tokens == expected
        # The last token of an answer is never read, and the question that follows is new.
        assert cached == (whole_blocks(len(ids) - 4) if turn else 0)
        ids = [*ids, *tokens, 30 + turn, 31, 32]


def test_int8_gets_the_same_tokens_with_and_without():
    model = small_model()
    quantize_int8(model)
    ids = [1, *range(10, 60)]
    batch = BatchGenerator(model, prefix_cache=PrefixCache(PLENTY))
    first, _ = run(batch, [(ids, GREEDY)])
    second, [cached] = run(batch, [(ids, GREEDY)])
    assert first == second == [list(stream_tokens(model, ids, GREEDY))]
    assert cached == whole_blocks(len(ids) - 1)


def test_rows_that_arrive_together_share_their_beginning(model):
    shared = [1, *range(10, 59)]
    prompts = [([*shared, *range(60, 61 + i)], replace(SEEDED, seed=i)) for i in range(5)] + [([1, 80, 81], GREEDY)]
    expected = [list(stream_tokens(model, ids, settings)) for ids, settings in prompts]
    tokens, cached = run(BatchGenerator(model, max_rows=6, prefix_cache=PrefixCache(PLENTY)), prompts)
    assert tokens == expected
    assert cached == [0, *[whole_blocks(len(shared))] * 4, 0]


def test_cancelled_rows_do_not_disturb_the_others(model, monkeypatch):
    monkeypatch.setattr("pipeline.generation.batch_generator.PREFILL_TOKENS", 8)
    shared = [1, *range(10, 59)]
    prefixes = PrefixCache(PLENTY)
    batch = BatchGenerator(model, max_rows=4, prefix_cache=prefixes)
    read_halfway = batch.join([*shared, 60], SEEDED)
    held = batch.join([*shared, 61], SEEDED)
    generating = batch.join([1, 70], SEEDED)
    for _ in range(5):
        batch.step()
    for number in (read_halfway, held, generating):
        batch.leave(number)
    assert batch.num_rows == 0
    prompts = [([*shared, 60 + i], replace(SEEDED, seed=i)) for i in range(4)]
    tokens, cached = run(batch, prompts)
    assert tokens == [list(stream_tokens(model, ids, settings)) for ids, settings in prompts]
    assert min(cached) >= BLOCK


def test_a_row_that_slides_continues_like_without(model):
    ids = [1, *[10, 11, 12] * 33]
    settings = replace(GREEDY, max_length=40)
    expected = list(stream_tokens(model, ids, settings))
    batch = BatchGenerator(model, prefix_cache=PrefixCache(PLENTY))
    assert [run(batch, [(ids, settings)])[0] for _ in range(2)] == [[expected]] * 2


def test_memory_is_bounded_and_the_least_recently_used_goes_first(model):
    cache = KVCache(model.config, batch_size=1, max_length=128, device="cpu", dtype=torch.float32)
    block_bytes = cache.read_row(0, 0, BLOCK).nbytes
    prefixes = PrefixCache(6 * block_bytes)
    old, used, new = ([start] * (2 * BLOCK + 1) for start in (3, 4, 5))
    for ids in (old, used):
        prefixes.store(ids, cache, 0)
    assert prefixes.load(used, cache, 0) == prefixes.load(old, cache, 0) == 2 * BLOCK
    prefixes.load(used, cache, 0)
    prefixes.store([*new, *new], cache, 0)  # four blocks
    assert prefixes.num_bytes == 6 * block_bytes
    assert [prefixes.known_length(ids) for ids in (old, used, new)] == [0, 2 * BLOCK, 2 * BLOCK]
    prefixes.store(old * 3, cache, 0)  # six blocks fill it
    assert [prefixes.known_length(ids) for ids in (old, used, new)] == [2 * BLOCK, 0, 0]


def test_a_sequence_longer_than_the_cache_keeps_its_beginning(model):
    cache = KVCache(model.config, batch_size=1, max_length=128, device="cpu", dtype=torch.float32)
    prefixes = PrefixCache(2 * cache.read_row(0, 0, BLOCK).nbytes)
    ids = list(range(80))
    prefixes.store(ids, cache, 0)
    assert prefixes.known_length(ids) == 2 * BLOCK


def test_scored_prompts_are_read_in_full(model):
    ids = [1, *range(10, 60)]
    batch = BatchGenerator(model, prefix_cache=PrefixCache(PLENTY))
    settings = replace(GREEDY, max_length=1, prompt_logprobs=1)
    scores = []
    for _ in range(2):
        batch.join(ids, settings)
        [event] = batch.step()
        assert event.num_cached == 0
        scores.append([logprob for logprob, _ in event.prompt_logprobs])
    assert scores[0] == scores[1]
    assert len(scores[0]) == len(ids) - 1
