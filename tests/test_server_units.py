"""Parts of the servers without a server: limits, errors, formats, open files."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from pipeline.generation.batch_generator import TokenEvent
from pipeline.generation.settings import ContextLengthError
from pipeline.runs.web_server import make_uvicorn
from pipeline.serving.connections import FILES_IN_RESERVE, reserve_files
from pipeline.serving.engine import EngineError, QueueFullError, RequestTimeoutError
from pipeline.serving.errors import as_api_error
from pipeline.serving.request_limits import (
    BodyLimit,
    check_ids,
    check_max_tokens,
    check_num_answers,
    check_num_characters,
)
from pipeline.serving.response_formatter import ChatFormatter, CompletionFormatter
from pipeline.web.early_answers import has_body
from pipeline.web.errors import ApiError, error_response, one_line
from pipeline.web.listening import listen, url_of
from utils.errors import PipelineError

SERVED = SimpleNamespace(max_characters=100, context=10, vocab_size=50)


@pytest.mark.parametrize(
    ("check", "allowed", "refused"),
    [
        (lambda number: check_max_tokens(number, field="max_tokens", most=8), (None, 0, 1, 8), (9,)),
        (lambda number: check_num_answers(number, 2, most=8), (1, 4), (0, 5)),
        (lambda number: check_ids("prompt", [number], SERVED), (0, 49), (50,)),
        (lambda number: check_num_characters(["a" * (number - 1), "b"], SERVED), (1, 100), (101,)),
    ],
    ids=["max_tokens", "answers", "ids", "characters"],
)
def test_a_limit_itself_is_allowed(check, allowed, refused):
    for number in allowed:
        check(number)
    for number in refused:
        with pytest.raises(ApiError) as error:
            check(number)
        assert error.value.status == 400


def test_no_ids_are_within_every_vocabulary():
    check_ids("prompt", [], SERVED)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ApiError(401, "a"), 401, "authentication_error", None),
        (ApiError(403, "a"), 403, "permission_error", None),
        (ApiError(404, "a"), 404, "not_found_error", None),
        (QueueFullError("a"), 429, "rate_limit_error", "queue_full"),
        (RequestTimeoutError("a"), 504, "server_error", "timeout"),
        (ContextLengthError("a"), 400, "invalid_request_error", "context_length_exceeded"),
        (PipelineError("a"), 400, "invalid_request_error", None),
        (EngineError("a"), 500, "server_error", "engine_error"),
        (ValueError("a"), 500, "server_error", "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_have_openais_status_and_kind(error, status, kind, code):
    response = error_response(as_api_error(error))
    detail = json.loads(response.body)["error"]
    assert (response.status_code, detail["type"], detail["code"]) == (status, kind, code)
    assert response.headers.get("retry-after") == ("1" if status == 429 else None)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize(("length", "shown"), [(100, "a" * 100), (101, "a" * 99 + "…")])
def test_quoted_text_is_cut_to_its_limit(length, shown):
    assert one_line("a" * length, longest=100) == shown


def event(text: str, finish_reason: str | None = None) -> TokenEvent:
    return TokenEvent(0, 1, text, finish_reason=finish_reason, logprob=-0.5, top_logprobs=((1, -0.5), (2, -1.5)))


@pytest.mark.parametrize("with_logprobs", [True, False])
def test_chunks_have_logprobs_only_if_asked(with_logprobs):
    words = [b"", b" a", b" b"]
    chat = ChatFormatter("m", words, with_logprobs=with_logprobs)
    completion = CompletionFormatter("m", words, with_logprobs=with_logprobs)
    for formatter in (chat, completion):
        (choice,) = formatter.chunk(0, event(" a"))["choices"]
        assert (choice["logprobs"] is not None) == with_logprobs
        if with_logprobs:
            (token,) = choice["logprobs"]["content"]
            assert (token["id"], token["logprob"], token["bytes"]) == (1, -0.5, [32, 97])
            assert [top["id"] for top in token["top_logprobs"]] == [1, 2]


def test_a_chat_drops_only_the_first_space():
    chat = ChatFormatter("m", [b"", b" a"], with_logprobs=False)
    deltas = [chat.chunk(0, event(text))["choices"][0]["delta"] for text in ("", " a", " a")]
    assert deltas == [{}, {"content": "a"}, {"content": " a"}]


def test_usage_adds_up():
    report = ChatFormatter("m", [], with_logprobs=False).usage(5, 7, 3)
    assert (report["prompt_tokens"], report["completion_tokens"], report["total_tokens"]) == (5, 7, 12)
    assert report["prompt_tokens_details"] == {"cached_tokens": 3}


async def _answer(app: BodyLimit, body: bytes, length: int | None) -> tuple[int, bytes]:
    """The status and what the application read."""
    sent: list[dict] = []
    parts = [{"type": "http.request", "body": body[:2], "more_body": True}, {"type": "http.request", "body": body[2:]}]
    headers = [] if length is None else [(b"content-length", str(length).encode())]

    async def receive() -> dict:
        return parts.pop(0)

    async def send(message: dict) -> None:
        sent.append(message)

    await app({"type": "http", "headers": headers}, receive, send)
    return sent[0]["status"], sent[-1].get("body", b"")


@pytest.mark.parametrize(("size", "status"), [(8, 200), (9, 413)])
@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_may_be_as_large_as_its_limit(size, status, is_declared):
    async def echo(scope: dict, receive, send) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    body = b"x" * size
    answered, read = asyncio.run(_answer(BodyLimit(echo, 8), body, size if is_declared else None))
    assert answered == status
    assert status == 413 or read == body


@pytest.mark.parametrize(
    ("headers", "expected"),
    [([], False), ([(b"content-length", b"0")], False), ([(b"content-length", b"1")], True),
     ([(b"transfer-encoding", b"chunked")], True)],
)  # fmt: skip
def test_headers_announce_a_body(headers, expected):
    assert has_body({"headers": headers}) == expected


def test_an_ipv6_address_gets_brackets_in_its_url():
    for host, address in (("127.0.0.1", (("127.0.0.1"), 80)), ("[::1]", ("::1", 80, 0, 0))):
        assert url_of(SimpleNamespace(getsockname=lambda address=address: address)) == f"http://{host}:80"
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("soft", "hard", "number", "expected"),
    [
        (256, -1, 100, (100 + FILES_IN_RESERVE, -1)),
        (100 + FILES_IN_RESERVE, 10_000, 100, None),
        (99 + FILES_IN_RESERVE, 100 + FILES_IN_RESERVE, 100, (100 + FILES_IN_RESERVE, 100 + FILES_IN_RESERVE)),
        (-1, -1, 100, None),
    ],
)
def test_the_file_limit_is_raised_only_if_it_is_too_low(monkeypatch, soft, hard, number, expected):
    resource = pytest.importorskip("resource")
    changed = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: changed.append(limits))
    reserve_files(number)
    assert changed == ([] if expected is None else [expected])


def test_too_few_files_suggest_the_most_connections(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10, FILES_IN_RESERVE - 1))
    with pytest.raises(PipelineError, match=r"--set server\.max_connections=1,"):
        reserve_files(5)


def test_the_runs_server_logs_no_requests_and_hides_its_name():
    config = make_uvicorn(lambda: None, greeting="ready", on_exit=lambda: None).config
    assert (config.access_log, config.server_header, config.limit_concurrency) == (False, False, 256)
