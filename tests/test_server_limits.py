"""Request limits and access control: hostile bodies, hosts, keys."""

import json
import socket
import threading

import httpx
import pytest

from pipeline.serving.json_body import parse_json
from pipeline.serving.request_limits import MAX_JSON_CONTAINERS, MAX_JSON_FIELDS, MAX_STOP_CHARACTERS
from pipeline.web import early_answers
from pipeline.web.access import host_names, is_allowed_host, read_api_key
from tests.running_server import TOKENIZER
from utils.errors import PipelineError

CLIENT = httpx.Client(verify=False)  # no TLS, because loading its certificates takes longer than a test


def post(server, body: bytes, path: str = "/v1/completions") -> httpx.Response:
    return CLIENT.post(f"{server.url}{path}", content=body, headers={"content-type": "application/json"})


def refused(answer: httpx.Response) -> str:
    """The message of a 400 response, which must be one printable line."""
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].isprintable()
    assert len(error["message"]) <= 1000
    assert error["param"] is None or len(error["param"]) <= 100
    return error["message"]


def test_answers_are_counted_before_prompts_are_encoded(server, monkeypatch):
    monkeypatch.setattr(type(TOKENIZER), "encode", lambda *_: pytest.fail("encoded"))
    body = json.dumps({"prompt": ["a"] * 20_000, "n": 16}).encode()
    assert "320,000 answers; expected 1 to 64" in refused(post(server, body))


def test_a_text_beyond_any_context_is_not_encoded(server, monkeypatch):
    monkeypatch.setattr(type(TOKENIZER), "encode", lambda *_: pytest.fail("encoded"))
    assert "context of 256" in refused(post(server, json.dumps({"prompt": "a" * 257}).encode()))
    chat = {"model": "chatty", "messages": [{"role": "user", "content": "a" * 257}]}
    assert "context of 256" in refused(post(server, json.dumps(chat).encode(), "/v1/chat/completions"))


@pytest.fixture
def held_encoding(monkeypatch):
    """Encoding waits: an event that is set when it was reached, and one that lets it continue."""
    reached, release = threading.Event(), threading.Event()
    encode = type(TOKENIZER).encode

    def wait_and_encode(*args, **options):
        reached.set()
        assert release.wait(timeout=60)
        return encode(*args, **options)

    monkeypatch.setattr(type(TOKENIZER), "encode", wait_and_encode)
    return reached, release


def test_others_are_answered_while_a_prompt_is_encoded(server, held_encoding):
    reached, release = held_encoding
    answers = []
    thread = threading.Thread(target=lambda: answers.append(post(server, b'{"prompt": "x", "max_tokens": 1}')))
    thread.start()
    assert reached.wait(timeout=60)
    assert CLIENT.get(f"{server.url}/health").status_code == 200
    release.set()
    thread.join()
    assert answers[0].status_code == 200


def test_prompts_that_wait_for_encoding_have_a_limit(make_server, held_encoding):
    reached, release = held_encoding
    busy = make_server(max_waiting=1)
    thread = threading.Thread(target=post, args=(busy, b'{"prompt": "x", "max_tokens": 1}'))
    thread.start()
    assert reached.wait(timeout=60)
    second = post(busy, b'{"prompt": "x", "max_tokens": 1}')
    release.set()
    thread.join()
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"prompt": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}", "nested too deeply"),
        (b'{"prompt": "\\ud800"}', "U+D800"),
        (b'{"prompt": "x", "stop": "\\ud800"}', "U+D800"),
        (b'{"prompt": "x", "stop": ["a", "\\udFFF"]}', "U+DFFF"),
        (b'{"prompt": "x", "\\ud800": 1}', "U+D800"),
        (b'{"prompt": "x", "n": true}', "n: Input should be a valid integer"),
        (b'{"prompt": "x", "n": "1"}', "n: Input should be a valid integer"),
        (b'{"prompt": "x", "temperature": true}', "temperature: Input should be a valid number"),
        (b'{"prompt": "x", "frequency_penalty": false}', "frequency_penalty: Input should be a valid number"),
        (b'{"prompt": "x", "best_of": true}', "best_of: expected a number"),
        (b'{"prompt": "x", "stream": 1}', "stream: Input should be a valid boolean"),
        (b'{"prompt": [true]}', "prompt: Input should be a valid integer"),
        (b'{"prompt": "x", "temperature": NaN}', "NaN"),
        (b'{"prompt": "x", "temperature": -Infinity}', "-Infinity"),
        (b'{"prompt": "x", "temperature": 1e999}', "temperature"),
        (b'{"prompt": "x", "seed": 9223372036854775808}', "seed"),
        (b'{"prompt": "x", "top_p": 1' + b"0" * 400 + b"}", "top_p"),
        (b'{"prompt": "x", "n": 1' + b"0" * 5_000 + b"}", "too many digits"),
        (b'{"prompt": [18446744073709551616]}', "prompt"),
        (b'{"prompt": "x", "prompt": "y"}', "'prompt' more than once"),
        ('{"prompt": "x"}'.encode("utf-16"), "not UTF-8"),
        (b'{"prompt": "x",}', "not JSON"),
        (b'{"prompt": "x", "a\\nb\\u001b[31m": 1}', "not supported"),
        (b'{"prompt": "x", "' + b"k" * 500_000 + b'": 1}', "not supported"),
        (b'{"prompt": "x", "stop": ["' + b"e" * (MAX_STOP_CHARACTERS + 1) + b'"]}', "String should have at most 1000"),
        (b"{" + b",".join(b'"a%d":1' % i for i in range(MAX_JSON_FIELDS + 1)) + b"}", "fields"),
        (b'{"prompt": [' + b",".join([b"[1]"] * MAX_JSON_CONTAINERS) + b"]}", "lists and objects"),
        (b'{"prompt": "\\"' + b"[" * MAX_JSON_CONTAINERS, "not JSON"),
    ],
)  # fmt: skip
def test_hostile_json_is_refused_in_one_line(server, body, said):
    assert said in refused(post(server, body))


def test_only_the_first_fault_of_a_list_is_reported(server):
    from pydantic import ValidationError

    from pipeline.serving.request_schemas import ChatCompletionRequest, CompletionRequest

    wrong = [1.5] * 1000
    for kind, fields in (
        (CompletionRequest, {"prompt": wrong}),
        (CompletionRequest, {"prompt": ["a", *wrong]}),
        (CompletionRequest, {"prompt": [[1], *wrong]}),
        (CompletionRequest, {"prompt": [wrong]}),
        (CompletionRequest, {"prompt": "x", "stop": wrong}),
        (ChatCompletionRequest, {"messages": wrong}),
    ):
        with pytest.raises(ValidationError) as raised:
            kind(**fields)
        assert raised.value.error_count() == 1


def test_brackets_in_a_text_are_not_counted():
    text = 'a "quoted" \\ ' + "[{" * MAX_JSON_CONTAINERS
    assert parse_json(json.dumps({"prompt": text}).encode()) == {"prompt": text}


def test_an_emoji_written_as_two_escapes_is_text(server):
    assert post(server, b'{"prompt": "\\ud83d\\ude00", "max_tokens": 1}').status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "localhost.", "a.localhost", "127.0.0.1:1", "[::1]:8"])
def test_the_servers_own_names_are_answered(host):
    assert is_allowed_host(host, host_names("127.0.0.1"))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a b",
     "x@localhost", "localhost, evil.example", "evil.example:80:80", "notlocalhost", "[evil.example]"],
)  # fmt: skip
def test_other_names_are_refused(host):
    assert not is_allowed_host(host, host_names("127.0.0.1"))


def test_hosts_can_be_allowed_by_name(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Box")
    assert is_allowed_host("llm.example:8000", host_names("127.0.0.1", ["LLM.example"]))
    assert is_allowed_host("anything", host_names("127.0.0.1", ["*"]))
    assert is_allowed_host("box.local", host_names("0.0.0.0"))
    assert not is_allowed_host("box", host_names("127.0.0.1"))


def test_rebound_host_name_is_refused(server):
    answer = CLIENT.get(f"{server.url}/v1/models", headers={"host": "evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    assert CLIENT.get(server.url, headers={"host": "evil.example"}).status_code == 403


@pytest.fixture
def locked(make_server):
    return make_server(api_key="sésame")


def test_the_key_opens_everything_and_its_scheme_has_any_case(locked):
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere", "/statically"):
        assert CLIENT.get(f"{locked.url}{path}").status_code == 401
        assert CLIENT.get(f"{locked.url}{path}", headers={"Authorization": "Bearer sesame"}).status_code == 401
    assert CLIENT.get(f"{locked.url}/v1/models", headers={"Authorization": "sésame".encode()}).status_code == 401
    for scheme in ("Bearer", "bearer", "BEARER"):
        right = {"Authorization": f"{scheme} sésame".encode()}
        assert CLIENT.get(f"{locked.url}/v1/models", headers=right).status_code == 200


def test_without_the_key_health_and_pages_are_open(locked):
    for path in ("/health", "/", "/docs", "/static/main.js", "/pages"):
        assert CLIENT.get(f"{locked.url}{path}").status_code == 200


def test_empty_key_is_an_error(monkeypatch):
    for key in ("", " ", "key\n"):
        monkeypatch.setenv("LLM_API_KEY", key)
        with pytest.raises(PipelineError, match="LLM_API_KEY is"):
            read_api_key("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("0.0.0.0", True), ("::", True), ("192.168.1.5", True), ("box", True),
     ("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("localhost", False)],
)  # fmt: skip
def test_an_open_server_without_a_key_warns(monkeypatch, capsys, host, is_open):
    monkeypatch.delenv("LLM_API_KEY", raising=False)
    assert read_api_key(host) is None
    assert ("without an API key" in capsys.readouterr().err) == is_open
    monkeypatch.setenv("LLM_API_KEY", "secret")
    assert read_api_key(host) == "secret"
    assert not capsys.readouterr().err


def test_no_other_site_can_frame_the_page(server):
    assert "frame-ancestors 'none'" in CLIENT.get(server.url).headers["content-security-policy"]


def raw_answer(port: int, request: bytes, *, rest: bytes = b"") -> bytes:
    """Everything that the server sends until it closes the connection; `rest` is sent after the first bytes of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        received = client.recv(65_536)
        client.sendall(rest)
        while piece := client.recv(65_536):
            received += piece
    return received


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def short_linger(monkeypatch):
    monkeypatch.setattr(early_answers, "LINGER_SECONDS", 0.01)


def test_a_declared_length_too_large_closes_the_connection(make_server, short_linger):
    server = make_server(max_body_bytes=1000)
    answer = raw_answer(server.port, HEAD + b"Content-Length: 1001\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b"larger than 1,000 bytes (server.max_body_bytes)" in answer


def test_a_chunked_body_too_large_closes_the_connection(make_server, short_linger):
    server = make_server(max_body_bytes=1000)
    chunk = b"3e9\r\n" + b" " * 1001 + b"\r\n"
    assert raw_answer(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk).startswith(b"HTTP/1.1 413 ")


def test_a_client_still_sending_sees_the_413(make_server):
    server = make_server(max_body_bytes=1000)
    body = b" " * 4_000_000
    head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
    assert b"body_too_large" in raw_answer(server.port, head, rest=body)


def test_a_body_without_end_is_cut_after_the_413(make_server, monkeypatch):
    monkeypatch.setattr(early_answers, "LINGER_BYTES", 1000)
    server = make_server(max_body_bytes=1000)
    head = HEAD + b"Content-Length: 1000000000\r\n\r\n"
    assert b"body_too_large" in raw_answer(server.port, head + b" " * 1001)


def test_a_wrong_key_with_an_unsent_body_closes(make_server, short_linger):
    server = make_server(api_key="secret")
    answer = raw_answer(server.port, HEAD + b"Content-Length: 10\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer


def test_a_refusal_after_the_body_keeps_the_connection(server):
    answer = post(server, b"{}")
    assert (answer.status_code, answer.headers.get("connection")) == (400, None)
