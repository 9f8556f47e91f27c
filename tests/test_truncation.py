"""Long conversations and texts: what is dropped, what is said about it, and exact continuation by token ids."""

import httpx
import pytest
import torch

from pipeline.formats.chat_template import encode_prompt, fit_prompt
from pipeline.generation.text_stream import TextStream
from tests.running_server import TOKENIZER

CONTEXT = 256


def conversation(num_turns: int, *, system: str = "") -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    past = [{"role": role, "content": f"{role} {turn}"} for turn in range(num_turns) for role in ("user", "assistant")]
    return [*head, *past, {"role": "user", "content": "The last question"}]


def post(server, path: str, **body):
    return httpx.post(f"{server.url}/v1/{path}", json={"temperature": 0, **body}).raise_for_status().json()


def chat(server, messages, **body):
    return post(server, "chat/completions", model="chatty", messages=messages, truncation="auto", **body)


@pytest.mark.parametrize("system", ["", "Be brief.", "Use only short words. " * 4])
def test_the_longest_recent_part_that_fits_is_kept(system):
    messages = conversation(8, system=system)
    head = messages[:1] if system else []
    for room in range(1, len(encode_prompt(TOKENIZER, messages)) + 8, 7):
        tails = ([*head, *messages[len(head) + 2 * dropped :]] for dropped in range(9))
        lengths = [len(encode_prompt(TOKENIZER, tail)) for tail in tails]
        expected = next((dropped for dropped, length in enumerate(lengths) if length <= room), 8)
        fitted = fit_prompt(TOKENIZER, messages, room=room)
        assert (fitted.num_dropped, len(fitted.ids)) == (expected, lengths[expected])


def test_a_long_chat_is_answered_and_says_what_it_left_out(server):
    answer = chat(server, conversation(30), max_tokens=20)
    fitted = fit_prompt(TOKENIZER, conversation(30), room=CONTEXT - 20)
    assert answer["dropped_turns"] == fitted.num_dropped > 0
    assert answer["usage"]["prompt_tokens"] == len(fitted.ids)
    assert answer["usage"]["completion_tokens"] == 20


def test_the_first_chunk_says_how_many_turns_were_dropped(server):
    body = {"model": "chatty", "messages": conversation(30), "truncation": "auto", "max_tokens": 2, "stream": True}
    lines = httpx.post(f"{server.url}/v1/chat/completions", json=body).text.splitlines()
    assert '"dropped_turns":' in lines[0]
    assert sum("dropped_turns" in line for line in lines) == 1


def test_api_clients_are_refused_unless_they_ask_for_it(server):
    body = {"model": "chatty", "messages": conversation(30)}
    chat = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    text = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x" * 200, "max_tokens": 100})
    for answer in (chat, text):
        assert answer.status_code == 400
        assert 'send "truncation": "auto"' in answer.json()["error"]["message"]


def test_an_answer_takes_the_room_left(server):
    question = [{"role": "user", "content": "x" * 210}]
    left = CONTEXT - len(encode_prompt(TOKENIZER, question))
    assert chat(server, question)["usage"]["completion_tokens"] == left
    assert chat(server, question, max_tokens=100_000)["usage"]["completion_tokens"] == left


def test_a_last_question_that_cannot_fit_is_refused(server):
    body = {"model": "chatty", "messages": [{"role": "user", "content": "x" * 255}], "truncation": "auto"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert (answer.status_code, "context" in answer.json()["error"]["message"]) == (400, True)


def test_a_long_text_keeps_its_newest_tokens(server):
    answer = post(
        server, "completions", model="base", prompt="x" * 240, truncation="auto", max_tokens=50, return_token_ids=True
    )
    assert answer["dropped_tokens"] == 242 - (CONTEXT - 50)
    assert answer["choices"][0]["prompt_token_ids"] == TOKENIZER.encode("x" * 240)[-(CONTEXT - 50) :]


def test_models_carry_their_context_and_defaults(server):
    card = httpx.get(f"{server.url}/v1/models/chatty").json()
    assert card["context_window"] == CONTEXT
    assert card["defaults"] == {
        "max_tokens": 200, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip


def test_entropy_is_that_of_the_whole_distribution(server):
    answer = post(server, "completions", model="base", prompt="Hello", max_tokens=1, logprobs=2)
    entry = answer["choices"][0]["logprobs"]["content"][0]
    with torch.no_grad():
        logits = server.models["base"](torch.tensor([TOKENIZER.encode("Hello", add_bos=True)]))["logits"][0, -1]
    assert entry["entropy"] == pytest.approx(torch.distributions.Categorical(logits=logits).entropy().item(), abs=1e-4)
    assert entry["id"] == logits.argmax().item()
    assert [token["id"] for token in entry["top_logprobs"]] == logits.topk(2).indices.tolist()


def test_an_answer_continues_exactly_from_its_token_ids(server):
    question = [{"role": "user", "content": "Hi"}]
    whole = chat(server, question, max_tokens=40, return_token_ids=True)
    ids = whole["choices"][0]["token_ids"]
    prompt = [*whole["prompt_token_ids"], *ids[:15]]
    rest = post(server, "completions", model="chatty", prompt=prompt, max_tokens=25, return_token_ids=True)
    assert rest["choices"][0]["token_ids"] == ids[15:]


@pytest.mark.parametrize("kept", range(6))
def test_a_character_cut_by_the_context_is_completed(kept):
    ids = TOKENIZER.encode("é€𝄞")[1:]
    before = bytes(token - 3 for token in ids[:kept]).decode("utf-8", "ignore")
    stream = TextStream(TOKENIZER, [*TOKENIZER.encode("a"), *ids[:kept]])
    assert before + "".join(map(stream.push, ids[kept:])) + stream.finish() == "é€𝄞"
