"""OpenAI's Responses API: the same answers as a chat, and the events that the client expects."""

import json

import httpx
import pytest

CLIENT = httpx.Client(verify=False)


def test_response_is_the_chats_answer(server):
    client = server.client()
    response = client.responses.create(
        model="chatty", input="Hi", instructions="Be short.", max_output_tokens=12, extra_body={"seed": 3}
    )
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    chat = client.chat.completions.create(model="chatty", messages=messages, max_tokens=12, seed=3)
    assert response.output_text == chat.choices[0].message.content
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == 12


def test_response_repeats_the_settings_of_the_request(server):
    request = {"model": "chatty", "input": "Hi", "max_output_tokens": 3, "temperature": 0.5, "metadata": {"a": "b"}}
    response = CLIENT.post(f"{server.url}/v1/responses", json=request).json()
    fixed = {"object": "response", "error": None, "previous_response_id": None, "store": False, "tools": []}
    fixed |= {"tool_choice": "none", "parallel_tool_calls": True, "truncation": "disabled", "instructions": None}
    assert fixed.items() <= response.items()
    assert {
        "max_output_tokens": 3,
        "temperature": 0.5,
        "top_p": None,
        "metadata": {"a": "b"},
    }.items() <= response.items()
    assert response["id"].startswith("resp_")


def test_events_build_the_response(server):
    ask = {"model": "chatty", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}
    ask |= {"max_output_tokens": 12, "extra_body": {"seed": 3}}
    whole = server.client().responses.create(**ask)
    events = list(server.client().responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == events[-1].response.output_text == whole.output_text


def test_earlier_answers_can_be_sent_back(server):
    client = server.client()
    first = client.responses.create(model="chatty", input="Hi", max_output_tokens=5, extra_body={"seed": 3})
    conversation = [{"role": "user", "content": "Hi"}, *first.output, {"role": "user", "content": "And?"}]
    second = client.responses.create(model="chatty", input=conversation, max_output_tokens=5)
    assert second.usage.input_tokens > first.usage.total_tokens


def test_responses_follow_a_schema(server):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    response = server.client().responses.create(
        model="chatty", input="Hi", text={"format": {"type": "json_schema", "name": "x", "schema": schema}}
    )
    assert response.status == "completed"
    assert set(json.loads(response.output_text)) == {"a"}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
        ({"messages": []}, "messages"),
    ],
)
def test_unsupported_field_is_named(server, fields, name):
    answer = CLIENT.post(f"{server.url}/v1/responses", json={"model": "chatty", "input": "Hi"} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


def test_error_in_a_stream_is_an_event(make_server):
    hasty = make_server(request_timeout=0.001)
    events = list(hasty.client().responses.create(model="chatty", input="Hi", stream=True))
    assert (events[-1].type, events[-1].code) == ("error", "timeout")
