"""Penalties, bias, constraints and prompt log-probabilities in the generation loop."""

import pytest
import torch

from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.generate import stream_events, stream_tokens
from pipeline.generation.settings import GenerationSettings
from tests.running_server import SHAPE, TOKENIZER, small_model
from utils.errors import PipelineError

PROMPT = TOKENIZER.encode("Hello", add_bos=True)


@pytest.fixture(scope="module")
def model():
    return small_model(1)


def greedy(model, **options) -> list[int]:
    return list(stream_tokens(model, PROMPT, GenerationSettings(max_length=24, temperature=0, **options)))


@pytest.mark.parametrize(("frequency", "presence"), [(1.5, 0.0), (0.0, 1.5), (0.7, -0.4), (-1.0, 0.0)])
def test_penalties_count_generated_tokens_only(model, frequency, presence):
    ids = list(PROMPT)
    for _ in range(24):
        with torch.no_grad():
            logits = model(torch.tensor([ids]))["logits"][0, -1]
        counts = torch.bincount(torch.tensor(ids[len(PROMPT) :], dtype=torch.long), minlength=SHAPE.vocab_size)
        ids.append(int((logits - counts * frequency - (counts > 0) * presence).argmax()))
    assert greedy(model, frequency_penalty=frequency, presence_penalty=presence) == ids[len(PROMPT) :]


def test_bias_forces_and_bans_tokens(model):
    first = greedy(model)[0]
    assert greedy(model, logit_bias=((100, 100.0),)) == [100] * 24
    assert first not in greedy(model, logit_bias=((first, -100.0),))


class EvenOnly:
    """Allows even ids, and nothing after the fourth token."""

    def start(self):
        return EvenState()


class EvenState:
    num_taken = 0

    @property
    def is_finished(self):
        return self.num_taken == 4

    def allowed(self):
        return torch.arange(SHAPE.vocab_size) % 2 == 0

    def accept(self, token):
        assert token % 2 == 0
        self.num_taken += 1


def test_constraint_restricts_and_ends_an_answer(model):
    settings = GenerationSettings(max_length=24, temperature=5, top_k=3, constraint=EvenOnly())
    events = list(stream_events(model, PROMPT, settings))
    assert len(events) == 4
    assert all(event.token_id % 2 == 0 for event in events)
    assert events[-1].finish_reason == "stop"


def test_rules_of_a_row_leave_the_others_alone(model):
    plain = GenerationSettings(max_length=10, temperature=0)
    batch = BatchGenerator(model, max_rows=2)
    ruled = batch.join(PROMPT, GenerationSettings(max_length=10, temperature=0, constraint=EvenOnly()))
    free = batch.join(PROMPT, plain)
    tokens = {ruled: [], free: []}
    while batch.num_rows:
        for event in batch.step():
            tokens[event.row].append(event.token_id)
    assert tokens[free] == list(stream_tokens(model, PROMPT, plain))
    assert all(token % 2 == 0 for token in tokens[ruled])


class Failing(EvenState):
    def start(self):
        return self

    def allowed(self):
        raise PipelineError("too complex")


def test_failing_constraint_ends_only_its_row(model):
    batch = BatchGenerator(model, max_rows=2)
    failing = batch.join(PROMPT, GenerationSettings(max_length=5, constraint=Failing()))
    batch.join(PROMPT, GenerationSettings(max_length=5))
    first = {event.row: event for event in batch.step()}[failing]
    assert (first.finish_reason, str(first.error)) == ("error", "too complex")
    assert batch.num_rows == 1


@pytest.mark.parametrize("prefill_tokens", [512, 16])
def test_prompt_logprobs_equal_a_forward_pass(model, monkeypatch, prefill_tokens):
    monkeypatch.setattr("pipeline.generation.batch_generator.PREFILL_TOKENS", prefill_tokens)
    prompts = [PROMPT, TOKENIZER.encode("a" * 200, add_bos=True), TOKENIZER.encode("Another text", add_bos=True)]
    batch = BatchGenerator(model, max_rows=3)
    rows = [batch.join(ids, GenerationSettings(max_length=1, prompt_logprobs=2)) for ids in prompts]
    events = {}
    while batch.num_rows:
        events |= {event.row: event for event in batch.step()}
    for row, ids in zip(rows, prompts, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([ids]))["logits"][0, :-1].log_softmax(-1)
        found = events[row].prompt_logprobs
        chosen = expected.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        assert torch.allclose(torch.tensor([logprob for logprob, _ in found]), chosen, atol=1e-4)
        assert [top[0][0] for _, top in found] == expected.argmax(-1).tolist()
        assert all(len(top) == 2 for _, top in found)
