"""The server over real sockets, with the openai client and plain HTTP."""

import json
import re
import threading

import httpx
import openai
import pytest
import torch
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from pipeline.formats.chat_template import encode_prompt
from pipeline.generation.config import GenerationConfig
from pipeline.generation.generate import stream_text
from pipeline.generation.settings import GenerationSettings
from pipeline.runs.routes import PAGE_FOLDER as RUNS_FOLDER
from pipeline.serving.api import PAGE_FOLDER, create_app
from pipeline.serving.config import ServerConfig
from pipeline.serving.engine import ServedModel
from pipeline.web.extra_page import ExtraPage
from pipeline.web.static_files import PackagedFiles
from pipeline.web.theme import SHARED_FILES
from tests.running_server import TOKENIZER


def settings(**options) -> GenerationSettings:
    return GenerationSettings.from_config(GenerationConfig(), **options)


def test_completion_equals_the_generation_loop(server):
    answer = server.client().completions.create(model="base", prompt="Hello", max_tokens=30, seed=5)
    expected = "".join(stream_text(server.models["base"], TOKENIZER, "Hello", settings(max_length=30, seed=5)))
    assert answer.choices[0].text == expected
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 30, 37)


def test_a_stream_joined_is_the_whole_answer(server):
    request = {"model": "base", "prompt": "Hello", "max_tokens": 40, "seed": 9}
    whole = server.client().completions.create(**request).choices[0].text
    chunks = list(server.client().completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 40


def test_several_prompts_and_several_answers_come_in_order(server):
    answer = server.client().completions.create(model="base", prompt=["One", "Two"], n=2, max_tokens=8, seed=3)
    for index, (prompt, seed) in enumerate([("One", 3), ("One", 4), ("Two", 3), ("Two", 4)]):
        expected = "".join(stream_text(server.models["base"], TOKENIZER, prompt, settings(max_length=8, seed=seed)))
        assert answer.choices[index].text == expected


def test_token_ids_are_a_prompt_too(server):
    ids = TOKENIZER.encode("Hello", add_bos=True)
    by_ids = server.client().completions.create(model="base", prompt=ids, max_tokens=8, seed=3)
    by_text = server.client().completions.create(model="base", prompt="Hello", max_tokens=8, seed=3)
    assert by_ids.choices[0].text == by_text.choices[0].text


def test_stop_strings_end_the_answer_and_are_excluded(server):
    whole = server.client().completions.create(model="base", prompt="Hello", max_tokens=30, seed=5).choices[0].text
    stop = whole[10:12]
    answer = server.client().completions.create(model="base", prompt="Hello", max_tokens=30, seed=5, stop=[stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs_are_the_models_own(server):
    answer = (
        server.client()
        .completions.create(model="base", prompt="Hello", max_tokens=3, temperature=0, logprobs=2)
        .choices[0]
    )
    with torch.no_grad():
        ids = torch.tensor([TOKENIZER.encode("Hello", add_bos=True)])
        expected = server.models["base"](ids)["logits"][0, -1].log_softmax(-1)
    assert answer.logprobs.token_logprobs[0] == pytest.approx(expected.max().item(), abs=1e-4)
    assert len(answer.logprobs.tokens) == 3
    assert sorted(answer.logprobs.top_logprobs[0].values())[-1] == pytest.approx(expected.max().item(), abs=1e-4)


def test_a_chat_is_rendered_with_the_template_of_training(server):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why </s>?"},
    ]
    answer = server.client().chat.completions.create(model="chatty", messages=messages, max_tokens=12, seed=2)
    ids = encode_prompt(TOKENIZER, messages)
    expected = "".join(stream_text(server.models["chatty"], TOKENIZER, ids, settings(max_length=12, seed=2)))
    assert answer.choices[0].message.content == expected.removeprefix(" ")
    assert answer.usage.prompt_tokens == len(ids)
    stream = server.client().chat.completions.create(
        model="chatty", messages=messages, max_completion_tokens=12, seed=2, stream=True
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.removeprefix(" ")


def test_chat_logprobs_list_the_alternatives(server):
    answer = server.client().chat.completions.create(
        model="chatty", messages=[{"role": "user", "content": "Hi"}], max_tokens=2, logprobs=True, top_logprobs=3
    )
    first = answer.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 3
    assert bytes(first.bytes).decode("utf-8", "replace") == first.token


def test_models_are_listed(server):
    assert [model.id for model in server.client().models.list()] == ["base", "chatty"]
    assert server.client().models.retrieve("chatty").id == "chatty"


def test_sixteen_clients_each_get_their_own_answer(server):
    answers = {}

    def ask(seed: int) -> None:
        text = server.client().completions.create(model="base", prompt=f"P{seed}", max_tokens=20, seed=seed)
        answers[seed] = text.choices[0].text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, text in answers.items():
        expected = stream_text(server.models["base"], TOKENIZER, f"P{seed}", settings(max_length=20, seed=seed))
        assert text == "".join(expected)


BAD_REQUESTS = [
    ({"prompt": ""}, 400, "empty"),
    ({"prompt": "x" * 1000}, 400, "context"),
    ({"prompt": "x", "max_tokens": 5000}, 400, "max_tokens"),
    ({"prompt": "x", "max_tokens": 300}, 400, "context"),
    ({"prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
    ({"prompt": "x", "temperature": -1}, 400, "temperature"),
    ({"prompt": "x", "top_p": 0}, 400, "top_p"),
    ({"prompt": "x", "stop": [""]}, 400, "stop"),
    ({"prompt": "x", "stop": list("abcde")}, 400, "stop"),
    ({"prompt": "x", "frequency_penalty": 2.5}, 400, "frequency_penalty"),
    ({"prompt": "x", "temprature": 1}, 400, "temprature: this field is not supported"),
    ({"prompt": "x", "model": "chattie"}, 404, "did you mean 'chatty'?"),
    ({"prompt": [1, 300]}, 400, "300"),
    ({"prompt": []}, 400, "0 answers"),
    ({"prompt": ["a"] * 100}, 400, "100 answers"),
    ({}, 400, "prompt"),
]


@pytest.mark.parametrize(("body", "status", "said"), BAD_REQUESTS)
def test_invalid_request_gets_a_reason(server, body, status, said):
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_requests_up_to_the_limits_are_answered(server):
    body = {"prompt": "x", "max_tokens": 1, "stop": list("abcd"), "n": 16, "logprobs": 20}
    assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"prompt": "\\ud800"}', b'{"prompt": "x", "temperature": NaN}',
     b'{"prompt": "x", "seed": 1' + b"0" * 5000 + b"}", b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}"],
)  # fmt: skip
def test_rubbish_is_a_400_and_the_server_stays_up(server, raw):
    answer = httpx.post(f"{server.url}/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


def test_a_base_model_does_not_pretend_to_chat(server):
    with pytest.raises(openai.BadRequestError, match="base model"):
        server.client().chat.completions.create(model="base", messages=[{"role": "user", "content": "Hi"}])


def test_the_body_has_a_limit(make_server):
    small = make_server(max_body_bytes=1000)
    answer = httpx.post(f"{small.url}/v1/completions", json={"prompt": "x" * 2000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


class Held:
    """A model that runs one step per permit."""

    def __init__(self, served: ServedModel) -> None:
        self.permits, self.started, self.num_steps = threading.Semaphore(0), threading.Event(), 0
        step = served.batch.step

        def wait_and_step():
            self.started.set()
            self.permits.acquire(timeout=60)
            self.num_steps += 1
            return step()

        served.batch.step = wait_and_step


def test_a_full_queue_answers_429_with_retry_after(make_server):
    busy = make_server(max_batch=1, max_waiting=1)
    held = Held(busy.engine.models["base"])
    ask = {"model": "base", "prompt": "x", "max_tokens": 2}
    threads = []
    for waiting in range(2):
        thread = threading.Thread(target=lambda: httpx.post(f"{busy.url}/v1/completions", json=ask, timeout=60))
        thread.start()
        threads.append(thread)
        held.started.wait(timeout=60)
        while busy.engine.num_running + busy.engine.num_waiting <= waiting:
            pass
    answer = httpx.post(f"{busy.url}/v1/completions", json=ask)
    held.permits.release(10)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    for thread in threads:
        thread.join()


def test_a_client_that_goes_away_frees_its_place(make_server):
    quiet = make_server()
    held = Held(quiet.engine.models["base"])
    ask = {"model": "base", "prompt": "x", "max_tokens": 200, "stream": True}
    held.permits.release()
    with httpx.stream("POST", f"{quiet.url}/v1/completions", json=ask) as stream:
        next(stream.iter_lines())
        while quiet.engine.num_running < 1:  # the first line may be read before the engine counts its request
            pass
    while quiet.engine.num_running:  # the suite's timeout fails the test if this never ends
        held.permits.release()
        httpx.get(f"{quiet.url}/health")  # a turn of the server's loop, in which it sees that the client has gone
    assert held.num_steps < 150


def test_an_answer_that_takes_too_long_is_a_504(make_server):
    hasty = make_server(request_timeout=0.001)
    answer = httpx.post(f"{hasty.url}/v1/completions", json={"prompt": "x", "max_tokens": 200})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_server_survives_a_failing_model(make_server, caplog):
    shaky = make_server()

    def fail():
        raise RuntimeError("out of luck")

    shaky.engine.models["base"].batch.step = fail
    ask = {"model": "base", "prompt": "x", "max_tokens": 2}
    answer = httpx.post(f"{shaky.url}/v1/completions", json=ask)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert "out of luck" in caplog.text
    assert httpx.post(f"{shaky.url}/v1/completions", json=ask).status_code == 200


def test_the_next_turn_is_not_read_again_and_usage_says_so(make_server):
    cached, uncached = make_server(), make_server(prefix_cache_mb=0)
    messages = [{"role": "user", "content": "What is the capital of the moon?"}]
    counts = []
    for turn in range(3):
        ask = {"model": "chatty", "messages": messages, "max_tokens": 16, "seed": 4, "stream": turn == 1}
        ask |= {"stream_options": {"include_usage": True}} if turn == 1 else {}
        answers = [httpx.post(f"{server.url}/v1/chat/completions", json=ask).text for server in (cached, uncached)]
        whole = [_whole_answer(text) for text in answers]
        assert whole[0][0] == whole[1][0]
        counts.append(whole[0][1])
        assert whole[1][1] == 0
        messages += [{"role": "assistant", "content": whole[0][0]}, {"role": "user", "content": "Why?"}]
    assert counts[0] == 0
    assert 32 <= counts[1] < counts[2]
    metrics = httpx.get(f"{cached.url}/metrics").text.splitlines()
    assert f'llm_cached_prompt_tokens_total{{model="chatty"}} {sum(counts):.1f}' in metrics


def _whole_answer(text):
    """(the text, the number of cached prompt tokens) of a whole or streamed chat completion."""
    if not text.startswith("data:"):
        answer = json.loads(text)
        content = answer["choices"][0]["message"]["content"]
    else:
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        answer = chunks[-1]
        content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    return content, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_several_answers_to_a_prompt_count_its_cached_tokens_once(make_server):
    url = f"{make_server().url}/v1/completions"
    ask = {"model": "base", "prompt": "x" * 40, "n": 3, "max_tokens": 2, "seed": 1}
    usages = [httpx.post(url, json=ask).json()["usage"] for _ in range(2)]
    assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages] == [0, 32]


def test_metrics_count_tokens(make_server):
    counted = make_server()
    httpx.post(f"{counted.url}/v1/completions", json={"model": "base", "prompt": "x", "max_tokens": 7})
    lines = httpx.get(f"{counted.url}/metrics").text.splitlines()
    assert 'llm_generated_tokens_total{model="base"} 7.0' in lines
    assert "llm_running 0.0" in lines


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_only_packaged_files(server, path):
    page = httpx.get(f"{server.url}{path}")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert named
    for name in named:
        assert httpx.get(f"{server.url}/{name}").status_code == 200, name


@pytest.mark.parametrize("folder", [PAGE_FOLDER, RUNS_FOLDER], ids=["chat", "runs"])
def test_scripts_import_only_packaged_files(folder):
    served = PackagedFiles(folder, *SHARED_FILES).names
    for script in (*folder.glob("*.js"), *(path for path in SHARED_FILES if path.suffix == ".js")):
        for name in re.findall(r'from "([^"]+)"', script.read_text()):
            assert name.removeprefix("./") in served, f"{script.name} imports {name}"


def test_other_pages_are_served_and_listed(server):
    async def runs(request):
        return Response("runs")

    page = ExtraPage("runs", "/runs", [Route("/runs", runs)], lambda: None)
    app = create_app(server.engine, GenerationConfig(), ServerConfig(), pages=[page])
    client = TestClient(app, base_url="http://localhost")
    assert client.get("/pages").json() == [{"name": "runs", "path": "/runs"}]
    assert client.get("/runs").text == "runs"


def test_the_description_lists_the_routes(server):
    document = json.loads(httpx.get(f"{server.url}/openapi.json").text)
    assert "/v1/chat/completions" in document["paths"]
