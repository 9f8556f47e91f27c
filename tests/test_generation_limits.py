"""Limits of generation settings, prompts and requests: the limit itself is allowed, the next value is not."""

import pytest
import torch
from pydantic import BaseModel, ValidationError

from pipeline.generation.sampling import keep_min_p, keep_top_p, penalise_repetition
from pipeline.generation.settings import GenerationSettings, check_prompt, check_text, prompt_room
from pipeline.generation.text_stream import TextStream
from pipeline.serving.request_schemas import ChatCompletionRequest, CompletionRequest
from tests.test_generate import ByteTokenizer
from utils.errors import PipelineError


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("max_length", (1,), (0, True, 1.0)),
        ("temperature", (0, 100.0), (-0.1, "1")),
        ("top_k", (0,), (-1,)),
        ("top_p", (0.01, 1, 1.0), (0.0, 1.01)),
        ("min_p", (0, 0.99), (-0.01, 1.0)),
        ("repetition_penalty", (0.01, 2.0), (0.0,)),
        ("frequency_penalty", (-2, 2), (-2.01, 2.01)),
        ("presence_penalty", (-2, 2), (-2.01, 2.01)),
        ("seed", (None, 0, 2**63 - 1), (-1, 2**63, 1.5)),
    ],
)
def test_settings_up_to_their_limits(name, allowed, refused):
    for value in allowed:
        assert getattr(GenerationSettings(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(PipelineError, match=f"^{name} is "):
            GenerationSettings(**{name: value})


def test_tiny_temperatures_are_greedy():
    assert GenerationSettings(temperature=9e-6).is_greedy
    assert not GenerationSettings(temperature=1e-5).is_greedy


@pytest.mark.parametrize(
    "change",
    [{"frequency_penalty": 1.0}, {"presence_penalty": 1.0}, {"logit_bias": ((1, 1.0),)}, {}],
    ids=str,
)
def test_only_some_settings_change_logits(change):
    assert GenerationSettings(**change).changes_logits == bool(change)


def test_a_prompt_may_fill_the_context():
    slide, refuse = GenerationSettings(max_length=2), GenerationSettings(max_length=2, on_overflow="refuse")
    for length, settings, fits in ((8, slide, True), (9, slide, False), (6, refuse, True), (7, refuse, False)):
        if fits:
            check_prompt([0] * length, settings, context=8, vocab_size=4)
        else:
            with pytest.raises(PipelineError):
                check_prompt([0] * length, settings, context=8, vocab_size=4)
    check_prompt([0, 3], slide, context=8, vocab_size=4)
    for token in (-1, 4):
        with pytest.raises(PipelineError, match=f"token id {token}; expected ids from 0 to 3"):
            check_prompt([0, token, 1], slide, context=8, vocab_size=4)


@pytest.mark.parametrize(("max_length", "room"), [(10, 90), (50, 50), (80, 50)])
def test_the_answer_gets_at_most_half_of_the_context(max_length, room):
    assert prompt_room(max_length, context=100) == room


def test_the_place_of_an_invalid_character_is_counted_from_one():
    with pytest.raises(PipelineError, match=r"not valid UTF-8 \(at character 3\)"):
        check_text("ab\udc80")


def test_top_p_keeps_the_token_that_reaches_it():
    probabilities = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    assert keep_top_p(probabilities, torch.tensor([[0.75]])).tolist() == [[0.5, 0.25, 0.0, 0.0]]
    assert keep_top_p(probabilities, torch.tensor([[0.76]])).tolist() == [[0.5, 0.25, 0.125, 0.0]]
    assert keep_min_p(probabilities, torch.tensor([[0.5]])).tolist() == [[0.5, 0.25, 0.0, 0.0]]


def test_the_penalty_lowers_both_signs():
    logits = torch.tensor([[2.0, -2.0, 2.0]])
    seen = torch.tensor([[True, True, False]])
    assert penalise_repetition(logits, seen, torch.tensor([[2.0]])).tolist() == [[1.0, -4.0, 2.0]]


@pytest.mark.parametrize("text", ["é", "你", "🙂", "aé", "a你b", "🙂🙂"])
def test_a_character_cut_anywhere_is_completed(text):
    tokenizer = ByteTokenizer()
    ids = [3 + value for value in text.encode()]
    for cut in range(1, len(ids)):
        stream = TextStream(tokenizer, ids[:cut])
        rest = "".join(map(stream.push, ids[cut:])) + stream.finish()
        whole = text.encode()[:cut].decode("utf-8", "ignore")
        assert whole + rest == text


COMPLETION = {"prompt": "a"}
CHAT = {"messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("kind", "base", "name", "allowed", "refused"),
    [
        (CompletionRequest, COMPLETION, "temperature", (0, 100.0), (-0.1, 100.1, True)),
        (CompletionRequest, COMPLETION, "top_p", (0.01, 1), (0, 1.01)),
        (CompletionRequest, COMPLETION, "top_k", (-1, 65_536), (-2, 65_537)),
        (CompletionRequest, COMPLETION, "min_p", (0, 0.99), (-0.01, 1)),
        (CompletionRequest, COMPLETION, "repetition_penalty", (0.1, 100), (0, 101)),
        (CompletionRequest, COMPLETION, "seed", (-(2**63), 2**63 - 1), (-(2**63) - 1, 2**63)),
        (CompletionRequest, COMPLETION, "max_tokens", (1, 1_000_000), (-1, 0, 1_000_001)),
        (CompletionRequest, {**COMPLETION, "echo": True}, "max_tokens", (0,), (-1,)),
        (CompletionRequest, COMPLETION, "n", (1, 16), (0, 17)),
        (CompletionRequest, COMPLETION, "frequency_penalty", (-2, 2), (-2.1, 2.1)),
        (CompletionRequest, COMPLETION, "presence_penalty", (-2, 2), (-2.1, 2.1)),
        (CompletionRequest, COMPLETION, "logit_bias", ({"65535": -100}, {"7": 100}), ({"7": 100.1}, {"123456": 1})),
        (CompletionRequest, COMPLETION, "stop", ("a", ["a"] * 4), (["a"] * 5,)),
        (CompletionRequest, COMPLETION, "logprobs", (0, 20), (-1, 21)),
        (CompletionRequest, COMPLETION, "best_of", (1, None), (0, 2, True)),
        (CompletionRequest, COMPLETION, "prompt", ([0, 65_535], [[0], [65_535]]), ([65_536], [[-1]])),
        (ChatCompletionRequest, CHAT, "max_tokens", (1, 1_000_000), (0, 1_000_001)),
        (ChatCompletionRequest, CHAT, "max_completion_tokens", (1, 1_000_000), (0, 1_000_001)),
        (ChatCompletionRequest, {**CHAT, "logprobs": True}, "top_logprobs", (0, 20), (-1, 21)),
        (ChatCompletionRequest, CHAT, "model", ("a" * 200,), ("a" * 201,)),
    ],
)  # fmt: skip
def test_request_fields_up_to_their_limits(kind: type[BaseModel], base, name, allowed, refused):
    for value in allowed:
        kind.model_validate(base | {name: value})
    for value in refused:
        with pytest.raises(ValidationError):
            kind.model_validate(base | {name: value})


def test_requests_override_only_what_they_name():
    defaults = GenerationSettings(temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, repetition_penalty=1.5)
    unchanged = CompletionRequest.model_validate(COMPLETION).apply_to(defaults)
    assert unchanged == defaults
    fields = {"temperature": 0, "top_k": -1, "top_p": 1, "min_p": 0, "repetition_penalty": 1, "stop": "x"}
    changed = CompletionRequest.model_validate({**COMPLETION, **fields, "logit_bias": {"3": 2}}).apply_to(defaults)
    assert (changed.temperature, changed.top_k, changed.top_p, changed.min_p) == (0, 0, 1, 0)
    assert (changed.repetition_penalty, changed.stop, changed.logit_bias) == (1, ("x",), ((3, 2.0),))


@pytest.mark.parametrize(
    ("prompt", "expected"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])]
)
def test_a_prompt_is_text_or_ids_one_or_several(prompt, expected):
    assert CompletionRequest.model_validate({"prompt": prompt}).prompts() == expected


@pytest.mark.parametrize(("options", "expected"), [(None, False), ({}, False), ({"include_usage": True}, True)])
def test_usage_comes_only_if_asked(options, expected):
    assert CompletionRequest.model_validate({**COMPLETION, "stream_options": options}).include_usage() == expected
