"""What clients send: fields without effect are accepted, unsupported ones refused by name, the others do their work."""

import json

import httpx
import openai
import pytest
import torch

from pipeline.formats.chat_template import encode_prompt
from pipeline.serving.config import ServerConfig
from pipeline.web.access import check_origins
from tests.running_server import TOKENIZER
from utils.errors import PipelineError

CLIENT = httpx.Client(verify=False)
HI = [{"role": "user", "content": "Hi"}]


def post(server, path: str, **body) -> httpx.Response:
    return CLIENT.post(f"{server.url}{path}", json=body)


def chat(server, **body) -> httpx.Response:
    return post(server, "/v1/chat/completions", **{"model": "chatty", "messages": HI, "max_tokens": 1} | body)


def refusal(answer: httpx.Response) -> dict:
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].isprintable()
    return answer.json()["error"]


def test_fields_without_effect_are_accepted(server):
    answer = server.client().chat.completions.create(
        model="chatty",
        messages=HI,
        max_completion_tokens=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        logprobs=False,
        metadata={"a": "b"},
        modalities=["text"],
        n=1,
        parallel_tool_calls=True,
        prediction={"type": "content", "content": "x"},
        prompt_cache_key="key",
        reasoning_effort="low",
        response_format={"type": "text"},
        safety_identifier="me",
        seed=-1,
        service_tier="auto",
        store=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        tool_choice="none",
        tools=[{"type": "function", "function": {"name": "f"}}],
        top_logprobs=0,
        user="me",
        verbosity="low",
        extra_body={"top_k": -1},
    )
    assert answer.choices[0].finish_reason == "length"


def test_null_counts_as_omitted(server):
    names = [
        "n",
        "stop",
        "stream",
        "logprobs",
        "top_p",
        "tools",
        "functions",
        "audio",
        "logit_bias",
        "presence_penalty",
    ]
    assert chat(server, **dict.fromkeys(names)).status_code == 200
    completion = dict.fromkeys(["best_of", "suffix", "echo", "max_tokens", "logprobs", "seed"])
    assert post(server, "/v1/completions", prompt="x", **completion | {"max_tokens": 1}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, *HI]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)  # fmt: skip
def test_unsupported_field_is_named(server, fields, name):
    error = refusal(chat(server, **fields))
    assert error["param"] == name
    assert error["message"].startswith(name)


def test_content_may_be_parts_and_null(server):
    parts = [{"type": "text", "text": "Why"}, {"type": "text", "text": "this?"}]
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "system", "content": None},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "user", "content": parts},
    ]
    plain = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi\n\nWhy\nthis?"}]
    answers = [chat(server, messages=sent, max_tokens=8, seed=1).json() for sent in (messages, plain)]
    assert answers[0]["usage"]["prompt_tokens"] == answers[1]["usage"]["prompt_tokens"]
    assert answers[0]["choices"] == answers[1]["choices"]


def test_bias_and_penalties_reach_the_model(server):
    create = server.client().completions.create
    forced = create(model="base", prompt="x", max_tokens=5, logit_bias={"68": 100}, temperature=0)
    assert forced.choices[0].text == "AAAAA"
    plain, penalised = (
        create(model="base", prompt="x", max_tokens=40, temperature=0, frequency_penalty=penalty).choices[0].text
        for penalty in (0, 2)
    )
    assert plain != penalised


def test_overflow_has_openais_code(server):
    error = refusal(post(server, "/v1/completions", prompt="x", max_tokens=300))
    assert error["code"] == "context_length_exceeded"
    assert refusal(chat(server, messages=[{"role": "user", "content": "x" * 999}]))["code"] == "context_length_exceeded"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types_are_a_415(server, content_type):
    headers = {"content-type": content_type} if content_type else {}
    answer = CLIENT.post(f"{server.url}/v1/completions", content=b'{"prompt": "x"}', headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def test_model_names_may_contain_a_slash(make_server):
    server = make_server()
    server.engine.models["run_x/best"] = server.engine.models["base"]
    assert CLIENT.get(f"{server.url}/v1/models/run_x/best").status_code == 200
    assert CLIENT.get(f"{server.url}/v1/models/run_x/worst").status_code == 404


def test_tokenize_and_detokenize_are_inverse(server):
    answer = post(server, "/tokenize", prompt="Héllo", return_token_strs=True).json()
    ids = TOKENIZER.encode("Héllo", add_bos=True)
    assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (ids, len(ids), 256)
    assert answer["token_strs"][:3] == ["", " ", "H"]
    assert answer["token_strs"][3] == "bytes:\\xc3"
    assert post(server, "/detokenize", tokens=ids).json() == {"prompt": "Héllo"}
    assert post(server, "/tokenize", prompt="", add_special_tokens=False).json()["count"] == 1
    used = chat(server).json()["usage"]["prompt_tokens"]
    assert post(server, "/tokenize", model="chatty", messages=HI).json()["count"] == used
    assert refusal(post(server, "/detokenize", tokens=[300]))
    assert refusal(post(server, "/tokenize"))["param"] == "prompt"


def test_echo_scores_the_prompt(server):
    text = "Hello"
    ids = TOKENIZER.encode(text, add_bos=True)
    with torch.no_grad():
        logprobs = server.models["base"](torch.tensor([ids]))["logits"][0].log_softmax(-1)
    expected = [logprobs[place, token].item() for place, token in enumerate(ids[1:])]
    ask = {"model": "base", "prompt": text, "echo": True, "logprobs": 1, "temperature": 0}
    scored = server.client().completions.create(**ask, max_tokens=0)
    assert scored.choices[0].text == text
    assert scored.choices[0].logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert scored.choices[0].logprobs.token_logprobs[0] is None
    assert scored.usage.completion_tokens == 0
    longer = server.client().completions.create(**ask, max_tokens=3).choices[0]
    assert longer.text.startswith(text)
    assert len(longer.logprobs.tokens) == len(ids) + 3
    stream = server.client().completions.create(**ask, max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == longer.text


def test_greedy_continuation_scores_as_greedy(server):
    ids = TOKENIZER.encode("Hello", add_bos=True)
    greedy = {"temperature": 0, "extra_body": {"return_token_ids": True}}
    written = server.client().completions.create(model="base", prompt=ids, max_tokens=20, **greedy).choices[0].token_ids

    def flags(continuation: list[int]) -> list[bool]:
        """What lm-eval computes: whether each token is the most likely one by its text."""
        ask = {"model": "base", "prompt": ids + continuation, "max_tokens": 1, "echo": True, "logprobs": 1}
        found = server.client().completions.create(**ask).choices[0].logprobs
        pairs = list(zip(found.tokens, found.top_logprobs, strict=True))[len(ids) : -1]
        return [token == max(top, key=top.get) for token, top in pairs]

    assert flags(written) == [True] * 20
    other = [*written[:10], (written[10] + 1) % 256 + 3, *written[11:]]
    assert flags(other)[:11] == [True] * 10 + [False]


def test_alternatives_include_the_token_itself(server):
    answer = server.client().completions.create(
        model="base", prompt="x", max_tokens=8, logprobs=1, temperature=9, seed=1
    )
    logprobs = answer.choices[0].logprobs
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert top[token] >= logprob


def test_no_page_of_another_site_may_read_answers(server):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in CLIENT.options(f"{server.url}/v1/completions", headers=asked).headers
    answer = CLIENT.get(f"{server.url}/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_listed_origins_may_use_the_api(make_server):
    server = make_server(api_key="secret", cors_origins=("https://App.example",))
    asked = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    allowed = CLIENT.options(f"{server.url}/v1/completions", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    refused = CLIENT.options(f"{server.url}/v1/completions", headers=asked | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers
    unauthorized = CLIENT.get(f"{server.url}/v1/models", headers={"origin": "https://app.example"})
    assert unauthorized.status_code == 401
    assert unauthorized.headers["access-control-allow-origin"] == "https://app.example"
    rebound = CLIENT.options(f"{server.url}/v1/completions", headers=asked | {"host": "evil.example"})
    assert rebound.status_code == 403


def test_invalid_origin_is_an_error():
    for origin in ("example.org", "https://example.org/", "https://a b", "", "https://"):
        with pytest.raises(PipelineError, match="cors_origins"):
            check_origins([origin])
    assert check_origins(["*", "http://localhost:3000"]) == ["*", "http://localhost:3000"]
    assert ServerConfig().cors_origins == ()


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"enum": ["s", "m"]}, "n": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def check_against_schema(text: str) -> None:
    value = json.loads(text)
    assert set(value) <= {"name", "size", "n"}
    assert len(value["name"]) <= 8
    assert value["size"] in ("s", "m")
    assert isinstance(value.get("n", 0), int)


def test_schema_holds_in_streams_and_batches(server):
    wanted = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    ask = {"model": "chatty", "messages": HI, "max_tokens": 100, "response_format": wanted}
    answer = server.client().chat.completions.create(**ask, n=4, seed=1, temperature=2)
    done = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert done
    for choice in done:
        check_against_schema(choice.message.content)
    stream = list(server.client().chat.completions.create(**ask, seed=done[0].index + 1, temperature=2, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == done[0].message.content


def test_cut_answer_is_a_length(server):
    ask = {"prompt": "x", "max_tokens": 3, "response_format": {"type": "json_object"}, "temperature": 0}
    choice = post(server, "/v1/completions", **ask).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["text"].startswith("{")


@pytest.mark.parametrize("schema", [{"uniqueItems": True}, {"type": "blah"}, {"$ref": "http://x/y"}, {"pattern": "("}])
def test_schema_that_cannot_be_enforced_is_refused(server, schema):
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert "schema" in refusal(chat(server, response_format=wanted))["message"]


def test_openai_parses_into_a_class(server):
    from pydantic import BaseModel

    class Colour(BaseModel):
        name: str
        is_dark: bool

    try:
        parsed = server.client().chat.completions.parse(
            model="chatty", messages=HI, response_format=Colour, max_tokens=200, temperature=0, logit_bias={"37": 5}
        )
    except openai.LengthFinishReasonError:
        pytest.fail("the answer should have ended")
    assert isinstance(parsed.choices[0].message.parsed, Colour)


BEGUN = [*HI, {"role": "assistant", "content": "The s"}]


def test_a_begun_answer_is_continued(server):
    ids = encode_prompt(TOKENIZER, BEGUN, continue_final_message=True)
    ask = {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False}
    answer = chat(server, **ask, return_token_ids=True).json()
    assert answer["prompt_token_ids"] == ids
    tokens = post(server, "/tokenize", model="chatty", messages=BEGUN, continue_final_message=True).json()["tokens"]
    assert tokens == ids


def test_the_space_after_a_begun_answer_is_kept(server):
    spaces = {"max_tokens": 2, "temperature": 0, "logit_bias": {str(3 + ord(" ")): 100}}
    assert chat(server, **spaces).json()["choices"][0]["message"]["content"] == " "
    begun = {"messages": BEGUN, "continue_final_message": True, **spaces}
    assert chat(server, **begun).json()["choices"][0]["message"]["content"] == "  "
    stream = server.client().chat.completions.create(
        model="chatty", messages=BEGUN, stream=True, extra_body={"continue_final_message": True}, **spaces
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "  "


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"continue_final_message": True}, "the last message is from the user; expected one from the assistant"),
        (
            {"messages": [*HI, {"role": "assistant", "content": " "}], "continue_final_message": True},
            "the last message is empty; expected the beginning of an answer",
        ),
        (
            {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": True},
            "expected false with continue_final_message",
        ),
        ({"add_generation_prompt": False}, "expected true without continue_final_message"),
        ({"messages": BEGUN}, "expected one from the user, or continue_final_message: true"),
        (
            {"messages": BEGUN, "continue_final_message": True, "response_format": {"type": "json_object"}},
            "expected text with continue_final_message",
        ),
    ],
)
def test_what_cannot_be_continued_is_refused(server, fields, reason):
    assert reason in refusal(chat(server, **fields))["message"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_overflow_is_told_in_the_clients_words(server, field):
    without_default = {"messages": HI, "model": "chatty", field: 300}
    message = refusal(post(server, "/v1/chat/completions", **without_default))["message"]
    assert f"300 new tokens ({field}) exceed" in message
    asked = {"model": "chatty", "input": "Hi", "max_output_tokens": 300}
    assert "300 new tokens (max_output_tokens) exceed" in refusal(post(server, "/v1/responses", **asked))["message"]
    too_many = {"messages": HI, "model": "chatty", field: 999_999}
    assert refusal(post(server, "/v1/chat/completions", **too_many))["param"] == field
