"""From the fields of a request to prompts: parts, roles, truncation, the queue of the encoder."""

import asyncio
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from pipeline.serving.answering import _server_sent
from pipeline.serving.engine import QueueFullError
from pipeline.serving.prompts import PromptEncoder, Prompts, encode_texts, plain_messages, text_ids
from pipeline.serving.request_fields import ResponseFormat, join_parts, without_nulls
from pipeline.serving.request_schemas import ChatCompletionRequest
from tests.running_server import TOKENIZER


def test_texts_keep_their_newest_tokens():
    ids = [[1, 2, 3, 4], [5]]
    assert encode_texts(TOKENIZER, ids, room=None) == Prompts(ids, 0)
    assert encode_texts(TOKENIZER, ids, room=4) == Prompts(ids, 0)
    assert encode_texts(TOKENIZER, ids, room=3) == Prompts([[2, 3, 4], [5]], 1)


def test_a_text_begins_with_bos_only_if_asked():
    ids = text_ids(TOKENIZER, "Hi", add_bos=False)
    assert text_ids(TOKENIZER, "Hi", add_bos=True) == [TOKENIZER.bos_id, *ids]
    assert encode_texts(TOKENIZER, ["Hi"], room=None).ids == [[TOKENIZER.bos_id, *ids]]


def test_neighbours_of_one_role_become_one_message():
    sent = [("system", "a"), ("developer", "b"), ("user", ""), ("assistant", " "), ("user", "c"), ("assistant", "d")]
    messages = [SimpleNamespace(role=role, content=content) for role, content in sent]
    assert plain_messages(messages) == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "\n\nc"},
        {"role": "assistant", "content": "d"},
    ]


def test_the_encoder_has_a_queue_of_answers():
    async def scenario() -> None:
        encoder = PromptEncoder(max_waiting=3)
        with pytest.raises(QueueFullError):
            await encoder.encode(lambda: 1, num_answers=4)
        assert await encoder.encode(lambda: 1, num_answers=3) == 1
        results = await asyncio.gather(
            *(encoder.encode(lambda: 2, num_answers=2) for _ in range(2)), return_exceptions=True
        )
        assert [type(result) for result in results] == [int, QueueFullError]
        assert await encoder.encode(lambda: 3, num_answers=3) == 3
        encoder.close()

    asyncio.run(scenario())


def test_only_known_nulls_are_left_out():
    assert without_nulls({"a": None, "b": 0, "c": None}, {"a", "b"}) == {"b": 0, "c": None}
    assert without_nulls([None], {"a"}) == [None]


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ("a", "a"), ([], ""), ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}], "a\nb")],
)
def test_the_parts_of_a_message_are_lines(content, text):
    assert join_parts(content) == text


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}, {"type": "array"}),
    ],
)
def test_the_answers_schema_follows_the_format(given, schema):
    assert ResponseFormat.model_validate(given).answer_schema == schema


@pytest.mark.parametrize("given", [{"type": "json_schema"}, {"type": "text", "json_schema": {}}, {"type": "xml"}])
def test_a_format_and_its_schema_belong_together(given):
    with pytest.raises(ValidationError):
        ResponseFormat.model_validate(given)


@pytest.mark.parametrize(
    ("fields", "is_allowed"),
    [
        ({"tool_calls": []}, True), ({"tool_calls": None}, True), ({"tool_calls": [1]}, False),
        ({"function_call": None}, True), ({"function_call": []}, False), ({"role": "tool"}, False),
    ],
)  # fmt: skip
def test_only_empty_tool_calls_are_accepted(fields, is_allowed):
    message = {"role": "assistant", "content": "a", **fields}
    if is_allowed:
        ChatCompletionRequest.model_validate({"messages": [message]})
    else:
        with pytest.raises(ValidationError):
            ChatCompletionRequest.model_validate({"messages": [message]})


@pytest.mark.parametrize(
    ("role", "content", "fields", "is_allowed"),
    [
        ("assistant", "a", {"continue_final_message": True}, True),
        ("assistant", " ", {"continue_final_message": True}, False),
        ("user", "a", {"continue_final_message": True}, False),
        ("user", "a", {"add_generation_prompt": True}, True),
        ("user", "a", {"add_generation_prompt": False}, False),
        ("assistant", "a", {"continue_final_message": True, "add_generation_prompt": False}, True),
        ("assistant", "a", {"continue_final_message": True, "add_generation_prompt": True}, False),
    ],
)
def test_only_an_answer_that_has_begun_is_continued(role, content, fields, is_allowed):
    request = {"messages": [{"role": role, "content": content}], **fields}
    if is_allowed:
        ChatCompletionRequest.model_validate(request)
    else:
        with pytest.raises(ValidationError):
            ChatCompletionRequest.model_validate(request)


def test_events_with_a_type_are_named_after_it():
    assert _server_sent({"a": "ü"}) == 'data: {"a":"ü"}\n\n'.encode()
    assert _server_sent({"type": "x.y"}) == b'event: x.y\ndata: {"type":"x.y"}\n\n'
