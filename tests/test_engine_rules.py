"""The engine's queue, its deadlines, and the counting of cached tokens, without a thread; JSON at its limits."""

import asyncio
import json
import time
from collections import deque
from types import SimpleNamespace

import pytest
from fastapi import HTTPException

from pipeline.generation.settings import GenerationSettings
from pipeline.serving import json_body
from pipeline.serving.engine import Engine, QueueFullError, RequestTimeoutError
from pipeline.serving.json_body import parse_json
from pipeline.serving.request_limits import MAX_JSON_CONTAINERS, MAX_JSON_FIELDS
from utils.errors import PipelineError

SETTINGS = GenerationSettings()


class Batch:
    """Rows join with the number of their prompt's first token; prompts that begin with 0 are refused."""

    def __init__(self) -> None:
        self.left: list[int] = []

    def join(self, ids, settings) -> int:
        if not ids[0]:
            raise PipelineError("empty")
        return ids[0]

    def leave(self, row: int) -> None:
        self.left.append(row)


def served(max_rows: int = 2) -> SimpleNamespace:
    return SimpleNamespace(name="m", waiting=deque(), running={}, max_rows=max_rows, batch=Batch())


def test_the_queue_takes_free_rows_and_waiting_ones():
    model = served(max_rows=2)
    engine = Engine([model], max_waiting=3, timeout=60)
    engine.check_room(model, 5)
    with pytest.raises(QueueFullError):
        engine.check_room(model, 6)
    model.running = {1: None}
    model.waiting.extend([None, None])
    engine.check_room(model, 2)
    with pytest.raises(QueueFullError):
        engine.check_room(model, 3)
    assert (engine.num_waiting, engine.num_running) == (2, 1)


async def submitted(engine: Engine, model: SimpleNamespace, *prompts: list[int]):
    return engine.submit(model, [(prompt, SETTINGS) for prompt in prompts])


def test_rows_join_in_order_while_there_is_room():
    async def scenario() -> None:
        model = served(max_rows=2)
        engine = Engine([model], max_waiting=9, timeout=60)
        answers = await submitted(engine, model, [1], [0], [2], [3])
        ((refused, error),) = engine._let_join(model)
        assert (refused.index, type(error)) == (1, PipelineError)
        assert list(model.running) == [1, 2]
        assert [job.index for job in model.waiting] == [3]
        answers.jobs[3].is_cancelled = True
        del model.running[1]
        assert engine._let_join(model) == []
        assert list(model.running) == [2]
        assert not model.waiting

    asyncio.run(scenario())


def test_late_and_cancelled_rows_leave():
    async def scenario() -> None:
        model = served(max_rows=3)
        engine = Engine([model], max_waiting=9, timeout=60)
        late = await submitted(engine, model, [1])
        cancelled = await submitted(engine, model, [2])
        await submitted(engine, model, [3])
        waiting = await submitted(engine, model, [4])
        engine._let_join(model)
        late.deadline = waiting.deadline = time.monotonic() - 1
        cancelled.cancel()
        ((job, error),) = engine._let_leave(model)
        assert (job.answers, type(error)) == (late, RequestTimeoutError)
        assert model.batch.left == [1, 2]
        assert list(model.running) == [3]
        ((job, error),) = engine._let_join(model)
        assert (job.answers, type(error)) == (waiting, RequestTimeoutError)

    asyncio.run(scenario())


def test_the_deadline_is_the_timeout_from_now():
    async def scenario() -> None:
        model = served()
        answers = await submitted(Engine([model], max_waiting=9, timeout=60), model, [1])
        assert 50 < answers.deadline - time.monotonic() <= 60

    asyncio.run(scenario())


def test_several_answers_to_a_prompt_count_its_cached_tokens_once():
    async def scenario() -> None:
        model = served()
        first, second = [1, 2], [3]
        answers = await submitted(Engine([model], max_waiting=9, timeout=60), model, first, first, second)
        for job, cached in zip(answers.jobs, (5, 7, 11), strict=True):
            job.num_cached = cached
        assert answers.num_cached == 5 + 11

    asyncio.run(scenario())


def refusal(body: bytes) -> str:
    with pytest.raises(HTTPException) as error:
        parse_json(body)
    assert error.value.status_code == 400
    return error.value.detail


def test_json_may_be_as_large_as_its_limits():
    parse_json(json.dumps([[]] * (MAX_JSON_CONTAINERS - 1)).encode())
    assert "more than 5,000 lists and objects" in refusal(json.dumps([[]] * MAX_JSON_CONTAINERS).encode())
    parse_json(json.dumps({str(number): 0 for number in range(MAX_JSON_FIELDS)}).encode())
    assert "more than 10,000 fields" in refusal(
        json.dumps({str(number): 0 for number in range(MAX_JSON_FIELDS + 1)}).encode()
    )
    two = [{str(number): 0 for number in range(MAX_JSON_FIELDS // 2 + 1)}] * 2
    assert "more than 10,000 fields" in refusal(json.dumps(two).encode())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' more than once"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a":\n x}', "at line 2, column 2"),
        (b'"\\ud800"', "U+D800, a lone surrogate"),
    ],
)
def test_the_place_of_a_fault_is_named(body, said):
    assert said in refusal(body)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_the_content_type_is_json_in_any_case(kind):
    json_body._check_content_type(kind)
    for other in ("", "text/plain"):
        with pytest.raises(HTTPException) as error:
            json_body._check_content_type(other)
        assert error.value.status_code == 415
        assert ("is missing" in error.value.detail) == (not other)
