"""Bodies of random values: a 200 or a 4xx in one line, never a 5xx."""

import json

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CLIENT = httpx.Client(verify=False, timeout=60)
MESSAGES = [{"role": "user", "content": "Hi"}]
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["\ud800", "\x00", "", "auto", "none", "text", "object", "user", "message"]
)
NUMBERS = st.integers() | st.sampled_from([0, 1, -1, 2**63, -(2**63) - 1, 10**400]) | st.floats()
KEYS = TEXTS | st.sampled_from(["type", "role", "content", "text", "schema", "json_schema", "format", "include_usage"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
SHARED = [
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stream",
    "metadata",
    "truncation",
    "user",
]
SAMPLING = [*SHARED, "n", "stop", "logit_bias", "response_format", "logprobs", "frequency_penalty", "stream_options"]
ROUTES = {
    "/v1/completions": ({"prompt": "x", "max_tokens": 2}, [*SAMPLING, "prompt", "max_tokens", "echo", "best_of"]),
    "/v1/chat/completions": (
        {"model": "chatty", "messages": MESSAGES, "max_tokens": 2},
        [*SAMPLING, "messages", "top_logprobs", "tools", "tool_choice", "modalities", "max_completion_tokens"],
    ),
    "/v1/responses": (
        {"model": "chatty", "input": "x", "max_output_tokens": 2},
        [*SHARED, "input", "instructions", "text", "include", "tools", "max_output_tokens", "previous_response_id"],
    ),
    "/tokenize": ({"prompt": "x"}, ["model", "prompt", "messages", "add_special_tokens"]),
    "/detokenize": ({"tokens": [5]}, ["model", "tokens"]),
}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_fields_never_break_the_server(server, data):
    path = data.draw(st.sampled_from(sorted(ROUTES)))
    body, names = ROUTES[path]
    changes = data.draw(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))
    headers = {"content-type": "application/json"}
    answer = CLIENT.post(f"{server.url}{path}", content=json.dumps(body | changes).encode(), headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"].isprintable()
