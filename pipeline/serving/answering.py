"""Let the engine answer an encoded request, and send the answers: whole, or as server-sent events.

response = await answer(request, encoded, engine.submit(served, jobs), metrics)
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from pipeline.serving.engine import Answers
from pipeline.serving.errors import as_api_error, error_body
from pipeline.serving.prometheus_metrics import Metrics
from pipeline.serving.request_encoding import EncodedRequest
from pipeline.serving.response_formatter import Choice


async def answer(request: Request, encoded: EncodedRequest, answers: Answers, metrics: Metrics) -> Response:
    """The response with `answers`, whole or streamed, as the request asks."""
    metrics.prompt_tokens.labels(encoded.served.name).inc(encoded.num_prompt_tokens)
    if encoded.sampling.stream:
        events = _stream(answers, encoded, metrics)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    choices = await _gather(request, answers)
    if not choices:
        return Response(status_code=499)
    metrics.count_answer(encoded.served.name, sum(len(choice.events) for choice in choices), answers.num_cached)
    return JSONResponse(encoded.formatter.whole(choices, encoded.num_prompt_tokens, answers.num_cached))


async def _gather(request: Request, answers: Answers) -> list[Choice]:
    """The finished answers, or none if the client disconnects first."""
    choices = [Choice() for _ in answers.jobs]

    async def read() -> None:
        async for index, event in answers:
            choices[index].add(event)

    reading, leaving = asyncio.create_task(read()), asyncio.create_task(_client_leaves(request))
    try:
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            return []
        reading.result()
        return choices
    finally:
        answers.cancel()
        reading.cancel()
        leaving.cancel()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(answers: Answers, encoded: EncodedRequest, metrics: Metrics) -> AsyncIterator[bytes]:
    """Server-sent events; an error becomes a final event. Closing the generator early frees the slots."""
    formatter = encoded.formatter
    num_tokens = 0
    try:
        for chunk in formatter.first_chunks(len(answers.jobs)):
            yield _server_sent(chunk)
        async for index, event in answers:
            num_tokens += 1
            for chunk in formatter.chunks(index, event):
                yield _server_sent(chunk)
        counts = (encoded.num_prompt_tokens, num_tokens, answers.num_cached)
        for chunk in formatter.last_chunks(*counts, with_usage=encoded.sampling.include_usage()):
            yield _server_sent(chunk)
    except Exception as error:
        yield _server_sent(formatter.error_chunk(error_body(as_api_error(error))))
    finally:
        answers.cancel()
        metrics.count_answer(encoded.served.name, num_tokens, answers.num_cached)
    if formatter.ends_with_done:
        yield b"data: [DONE]\n\n"


def _server_sent(content: Mapping[str, object]) -> bytes:
    """One event; those of the Responses API have a type, which is also the event's name."""
    name = b"event: %b\n" % str(content["type"]).encode() if "type" in content else b""
    return b"%bdata: %b\n\n" % (name, orjson.dumps(content))
