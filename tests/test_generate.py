"""The generation loop: batches equal single rows, streamed text equals full decoding, generation stops correctly."""

from dataclasses import replace

import pytest
import torch

from model import TransformerLM
from pipeline.generation.batch_generator import CPU_PREFILL_TOKENS, BatchGenerator
from pipeline.generation.config import GenerationConfig
from pipeline.generation.generate import GenerationSettings, generate_batch, stream_events, stream_text, stream_tokens
from pipeline.generation.settings import check_text
from pipeline.generation.text_stream import TextStream
from pipeline.modeling.config import ModelConfig
from tests.small_models import decisive_model
from utils.errors import PipelineError

BYTES = 259  # <unk>, <s>, </s>, then a token for each byte


class ByteTokenizer:
    """Ids 0 to 2 are special, 3 to 258 are bytes, then pieces that start with a space like SentencePiece's words."""

    eos_id = 2

    def __init__(self, *words):
        self._pieces = [b"", b"", b"", *(bytes([value]) for value in range(256)), *(f" {w}".encode() for w in words)]

    def token_bytes(self):
        return self._pieces

    def encode(self, text, *, add_bos=False):
        return [1] * add_bos + [3 + value for value in f" {text}".encode()]

    def decode(self, ids):
        content = b"".join(self._pieces[token] for token in ids)
        return content.removeprefix(b" ").decode("utf-8", errors="replace")


@pytest.fixture(scope="module")
def model():
    return decisive_model(vocab_size=BYTES + 3, context=64)


class ScriptedModel(torch.nn.Module):
    """A model that always generates `script`: the token after position i is script[i + 1 - start]."""

    eos_id = 2

    def __init__(self, script, *, start, context=512):
        super().__init__()
        self.script = script
        self.start = start
        self.config = ModelConfig(
            vocab_size=BYTES + 3,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            max_position_embeddings=context,
        )
        self.device = torch.device("cpu")
        self.dtype = torch.float32

    def hidden_states(self, ids, *, cache):
        positions = cache.positions(ids.shape[1]).expand(ids.shape)
        cache.advance(ids.shape[1])
        return positions[..., None].float().expand(*ids.shape, 8)

    def project(self, hidden):
        places = hidden[..., 0].long() + 1 - self.start
        tokens = torch.tensor([self.script[place] for place in places.tolist()])
        return torch.nn.functional.one_hot(tokens, self.config.vocab_size).float() * 50


def scripted(tokens, prompt):
    return ScriptedModel([*tokens, 2, 2], start=len(prompt))


@torch.no_grad()
def slow_greedy(model, ids, count):
    """A reference without a cache, which reads the whole sequence for every token."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))["logits"][0, -1].argmax()))
    return ids


def test_greedy_equals_the_uncached_loop(model):
    prompt = [1, 40, 50, 60]
    result = model.generate(torch.tensor([prompt]), max_length=30, temperature=0)
    assert result.tolist() == [slow_greedy(model, prompt, 30)]


@pytest.mark.parametrize("options", [{"top_k": 0, "top_p": 1.0}, {}, {"top_k": 0}, {"repetition_penalty": 1.3}])
def test_batched_rows_equal_single_rows(model, options):
    prompts = [[1, 5], [1, *list(range(10, 40))], [7, 8, 9, 10, 11], [1, 200, 201]]
    settings = GenerationSettings(max_length=45, seed=11, temperature=1.0, **options)
    together = generate_batch(model, prompts, settings, max_rows=3)
    alone = [generate_batch(model, [p], replace(settings, seed=11 + i))[0] for i, p in enumerate(prompts)]
    assert together == alone
    assert len({tuple(row) for row in together}) == 4


def test_every_finished_continuation_is_reported_once(model):
    finished = []
    settings = GenerationSettings(max_length=5, temperature=0)
    generate_batch(model, [[1, 5], [7], [8, 9]], settings, max_rows=2, on_finished=lambda: finished.append(1))
    assert len(finished) == 3


def test_rows_join_and_leave_without_touching_the_others(model):
    settings = GenerationSettings(max_length=20, seed=3, temperature=1.0)
    expected = list(stream_tokens(model, [1, 30, 31], settings))
    batch = BatchGenerator(model, max_rows=3)
    others = [batch.join([1, 90, 91, 92], replace(settings, seed=5))]
    batch.step()
    kept, tokens = batch.join([1, 30, 31], settings), []
    for step in range(40):
        tokens += [event.token_id for event in batch.step() if event.row == kept]
        if step in (2, 9):
            others.append(batch.join([1] + [60 + step] * 12, replace(settings, seed=step)))
        if step in (5, 12):
            batch.leave(others.pop(0))
    assert tokens == expected
    batch.leave(12345)  # unknown rows are ignored


def test_a_row_leaves_while_its_prompt_is_read(model, monkeypatch):
    monkeypatch.setattr("pipeline.generation.batch_generator.PREFILL_TOKENS", 8)
    settings = GenerationSettings(max_length=5, seed=3, temperature=1.0)
    expected = list(stream_tokens(model, [1, 30, 31], settings))
    batch = BatchGenerator(model, max_rows=2)
    gone = batch.join([1] + [60] * 20, settings)
    kept = batch.join([1, 30, 31], settings)
    assert batch.step() == []
    batch.leave(gone)
    assert batch.num_rows == 1
    events = [event for _ in range(10) for event in batch.step()]
    assert [event.token_id for event in events] == expected
    assert {event.row for event in events} == {kept}
    assert batch.num_rows == 0


def test_the_repetition_penalty_reaches_prompt_and_new_tokens(model):
    settings = GenerationSettings(max_length=40, temperature=0, repetition_penalty=1e9)
    prompt = [1, 30, 31]
    tokens = prompt + generate_batch(model, [[1, 5], prompt], settings)[1]
    logits = model(torch.tensor([tokens[:-1]]))["logits"][0, -1]
    assert len(set(tokens)) == len(tokens) or logits.max() <= 0


def test_a_seed_repeats_and_none_does_not(model):
    settings = GenerationSettings(max_length=20, seed=4, temperature=1.5, top_k=0, top_p=1.0)
    first, again = (list(stream_tokens(model, [1, 9], settings)) for _ in range(2))
    other = list(stream_tokens(model, [1, 9], replace(settings, seed=5)))
    unseeded = [tuple(stream_tokens(model, [1, 9], replace(settings, seed=None))) for _ in range(2)]
    assert first == again != other
    assert unseeded[0] != unseeded[1]


def test_generate_counts_new_tokens_and_returns_the_prompt_with_them(model):
    one = model.generate(torch.tensor([1, 20, 21]), max_length=7, seed=1)
    assert one.shape == (10,)
    assert one[:3].tolist() == [1, 20, 21]
    two = model.generate(torch.tensor([[1, 20, 21], [1, 50, 51]]), max_length=7, seed=1)
    assert two.shape == (2, 10)
    assert two[0].tolist() == one.tolist()


def test_generate_ignores_masked_positions(model):
    bare = model.generate(torch.tensor([[1, 20, 21]]), max_length=6, seed=1)[0, 3:].tolist()
    for row, mask in (([0, 0, 1, 20, 21], [0, 0, 1, 1, 1]), ([1, 20, 21, 2, 2], [1, 1, 1, 0, 0])):
        padded = model.generate(torch.tensor([row]), attention_mask=torch.tensor([mask]), max_length=6, seed=1)
        assert padded[0, 5:].tolist() == bare


def test_a_row_that_meets_eos_stops_and_is_filled_up():
    model = ScriptedModel([10, 11, 2, 12, 13, 14, 15, 16, 17], start=2)
    result = model_generate(model, torch.tensor([[1, 5, 0], [1, 5, 9]]), attention_mask=torch.tensor([[1, 1, 0]] * 2))
    assert result[:, 3:].tolist() == [[10, 11, 2]] * 2
    events = list(stream_events(model, [1, 5], GenerationSettings(temperature=0)))
    assert [event.finish_reason for event in events] == [None, None, "stop"]
    assert list(stream_tokens(model, [1, 5], GenerationSettings(temperature=0))) == [10, 11]


def model_generate(model, *args, **options):
    from pipeline.generation.generate import generate

    return generate(model, *args, temperature=0, **options)


def test_generation_disables_dropout_and_restores_training_mode():
    model = TransformerLM(ModelConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, dropout=0.5)).train()
    first, second = (model.generate(torch.tensor([1, 5]), max_length=8, temperature=0) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert model.training


TEXTS = [
    "plain words",
    "  two leading spaces, then\n\n    an indented line\t",
    "Größe, naïve, 你好，世界, Привет, שלום, नमस्ते, ያልተ, 🙂👩‍👩‍👧",
    "é" * 5,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", ["", "Once"])
def test_streamed_text_equals_full_decoding(text, prompt):
    tokenizer = ByteTokenizer()
    context = [1] + (tokenizer.encode(prompt) if prompt else [])
    tokens = tokenizer.encode(text)
    stream = TextStream(tokenizer, context)
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert "".join(pieces) == tokenizer.decode(context + tokens)[len(tokenizer.decode(context)) :]
    assert not any("\ufffd" in piece for piece in pieces)


def test_invalid_bytes_are_replaced_like_in_full_decoding():
    tokenizer = ByteTokenizer()
    tokens = [3 + value for value in b"ok \xc3\xa9\xff\xe4\xbd next \xf0\x9f"]
    stream = TextStream(tokenizer, [1, 40])
    assert "".join([stream.push(token) for token in tokens] + [stream.finish()]) == tokenizer.decode([40, *tokens])[1:]


def test_stream_text_of_a_model_equals_the_decoded_tokens():
    tokenizer = ByteTokenizer()
    prompt = tokenizer.encode("Say", add_bos=True)
    tokens = tokenizer.encode("été 你好")
    settings = GenerationSettings(temperature=0)
    pieces = list(stream_text(scripted(tokens, prompt), tokenizer, "Say", settings))
    assert "".join(pieces) == " été 你好"
    assert len(pieces) == 1 + len("été 你好")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["END"], "one two "),
        (["two", "END"], "one "),
        (["nothing"], "one two END three"),
        (["ree!", "END t!"], "one two END three"),
    ],
)
def test_stop_strings_end_the_text_before_them(stop, expected):
    tokenizer = ByteTokenizer()
    prompt = [1, 60]
    model = scripted(tokenizer.encode("one two END three")[1:], prompt)
    settings = GenerationSettings(temperature=0, stop=tuple(stop))
    events = list(stream_events(model, prompt, settings, tokenizer=tokenizer))
    assert "".join(event.text for event in events) == expected
    assert events[-1].finish_reason == "stop"
    assert all(event.finish_reason is None for event in events[:-1])


def test_a_stop_string_is_never_shown_in_part():
    tokenizer = ByteTokenizer()
    stream = TextStream(tokenizer, [1, 60], stop=["\nUser:"])
    shown = [stream.push(token) for token in tokenizer.encode("x\nUs\nUser: y")[1:]]
    assert "".join(shown) == "x\nUs"
    assert stream.stopped
    assert shown[1:4] == ["", "", ""]  # "\nUs" waits until the next line's start decides it


def test_held_back_text_is_emitted_at_the_end():
    tokenizer = ByteTokenizer()
    model = scripted(tokenizer.encode("ab\nU")[1:], [1, 60])
    settings = GenerationSettings(temperature=0, max_length=4, stop=("\nUser:",))
    events = list(stream_events(model, [1, 60], settings, tokenizer=tokenizer))
    assert "".join(event.text for event in events) == "ab\nU"
    assert events[-1].finish_reason == "length"


@torch.no_grad()
def test_full_context_drops_its_oldest_half(model):
    prompt = [1, *list(range(20, 60))]
    settings = GenerationSettings(max_length=120, temperature=0)
    tokens = list(stream_tokens(model, prompt, settings))
    assert len(tokens) == 120
    ids, window = list(prompt), list(prompt)
    for _ in range(120):
        if len(window) > 64:
            window = window[-32:]
        token = int(model(torch.tensor([window]))["logits"][0, -1].argmax())
        ids.append(token)
        window.append(token)
    assert prompt + tokens == ids


def test_long_requests_are_refused_if_configured(model):
    settings = GenerationSettings(max_length=60, on_overflow="refuse")
    with pytest.raises(PipelineError, match=r"5 prompt tokens plus 60 new tokens .* context of 64"):
        list(stream_tokens(model, [1, 2, 3, 4, 5], settings))
    assert len(list(stream_tokens(model, [1, 3, 4, 5], settings))) == 60


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ([1, BYTES + 3], "contains token id 262; expected ids from 0 to 261"),
        ([1, -1], "contains token id -1"),
        ([5] * 65, "65 tokens, but the model's context is 64"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused_before_anything_runs(model, prompt, message):
    batch = BatchGenerator(model)
    with pytest.raises(PipelineError, match=message):
        batch.join(prompt, GenerationSettings())
    assert batch.num_rows == 0


@pytest.mark.parametrize("text", ["", "  \n", "a\udcff"])
def test_invalid_prompts_are_refused(text):
    with pytest.raises(PipelineError, match=r"the prompt is (empty|not valid UTF-8)"):
        check_text(text)


def test_a_long_prompt_is_read_in_parts_while_others_write():
    long = [1] + [5] * (3 * CPU_PREFILL_TOKENS)
    model = ScriptedModel([5] * 3000, start=2, context=4096)
    batch = BatchGenerator(model, max_rows=2)
    settings = GenerationSettings(temperature=0, max_length=10)
    writer = batch.join([1, 5], settings)
    batch.step()
    reader = batch.join(long, settings)
    rows = [[event.row for event in batch.step()] for _ in range(5)]
    assert rows == [[writer]] * 3 + [[writer, reader]] * 2


def test_logprobs_are_of_the_models_own_distribution(model):
    settings = GenerationSettings(max_length=3, temperature=0.3, top_k=2, seed=0, logprobs=4)
    prompt = [1, 44, 45]
    for event in stream_events(model, prompt, settings):
        expected = model(torch.tensor([prompt]))["logits"][0, -1].log_softmax(-1)
        assert event.logprob == pytest.approx(expected[event.token_id].item(), abs=1e-4)
        assert [token for token, _ in event.top_logprobs] == expected.topk(4).indices.tolist()
        prompt.append(event.token_id)


def test_settings_come_from_the_config_and_flags_win():
    settings = GenerationSettings.from_config(GenerationConfig(top_k=7), temperature=0, seed=None)
    assert (settings.top_k, settings.temperature, settings.max_length, settings.seed) == (7, 0, 200, None)


def test_unknown_options_of_generate_are_named(model):
    with pytest.raises(
        PipelineError, match=r"no option 'top_q'; did you mean 'top_p'\?; valid options are: max_length"
    ):
        model.generate(torch.tensor([1]), top_q=3)
    with pytest.raises(PipelineError, match=r"no option 'max_new_tokens'; did you mean 'max_length'\?") as error:
        model.generate(torch.tensor([1]), max_new_tokens=3)
    assert "Settings" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": "5"}, "max_length is '5'; expected an integer"),
        ({"temperature": None}, "temperature is None; expected a number"),
        ({"top_k": True}, "top_k is True; expected an integer"),
        ({"stop": "\n"}, "stop is '.n'; expected a tuple of strings"),
    ],
)
def test_options_of_a_wrong_type_are_named(model, options, message):
    with pytest.raises(PipelineError, match=message):
        model.generate(torch.tensor([1]), **options)


def test_a_prompt_of_text_is_refused(model):
    with pytest.raises(PipelineError, match="expects token ids"):
        model.generate("Once upon a time")
