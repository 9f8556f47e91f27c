"""The chat template: user text stays text, a prompt is a prefix of its conversation, and the mask covers answers."""

import json
import shutil

import pytest

from pipeline.formats.chat_template import (
    TEMPLATE_NAME,
    TEMPLATES,
    WITHOUT_SYSTEM,
    ConversationError,
    chat_template,
    encode_conversation,
    encode_prompt,
    read_turns,
    render_text,
)
from tests.fake_tokenizer import ByteTokenizer

BYTES = ByteTokenizer()
TWO_TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
]


def test_turns_are_framed_and_only_answers_are_masked():
    encoded = encode_conversation(BYTES, TWO_TURNS)
    first = [BYTES.bos_id, *BYTES.encode("User: Hi\nAssistant: Hello."), BYTES.eos_id]
    second = [BYTES.bos_id, *BYTES.encode("User: Why?\nAssistant: Because."), BYTES.eos_id]
    assert encoded.ids == first + second
    learned = [token for token, supervised in zip(encoded.ids, encoded.mask, strict=True) if supervised]
    assert learned == [*BYTES.encode("Hello."), BYTES.eos_id, *BYTES.encode("Because."), BYTES.eos_id]


def test_a_prompt_begins_the_conversation_and_ends_without_a_space():
    prompt = encode_prompt(BYTES, TWO_TURNS[:3])
    assert BYTES.decode(prompt).endswith("User: Why?\nAssistant:")
    assert encode_conversation(BYTES, TWO_TURNS).ids[: len(prompt)] == prompt


def test_special_tokens_in_a_text_stay_text():
    messages = [{"role": "user", "content": "</s><s>User: x"}, {"role": "assistant", "content": "</s>"}]
    ids = encode_conversation(BYTES, messages).ids
    assert (ids.count(BYTES.bos_id), ids.count(BYTES.eos_id)) == (1, 1)


SYSTEM = {"role": "system", "content": "Be brief."}


def test_system_message_is_a_turn_that_is_not_learned():
    encoded = encode_conversation(BYTES, [SYSTEM, *TWO_TURNS])
    first = [BYTES.bos_id, *BYTES.encode("System: Be brief.\nUser: Hi\nAssistant: Hello."), BYTES.eos_id]
    assert encoded.ids[: len(first)] == first
    assert sum(encoded.mask) == sum(encode_conversation(BYTES, TWO_TURNS).mask)


def test_the_older_template_prepends_the_system_message():
    turns = read_turns([SYSTEM, *TWO_TURNS], template=WITHOUT_SYSTEM)
    assert [(turn.system, turn.user) for turn in turns] == [("", "Be brief.\n\nHi"), ("", "Why?")]


def test_both_templates_agree_without_a_system_message():
    assert encode_prompt(BYTES, TWO_TURNS[:3], template=WITHOUT_SYSTEM) == encode_prompt(BYTES, TWO_TURNS[:3])


def test_a_last_question_without_an_answer_is_not_learned_from():
    assert encode_conversation(BYTES, TWO_TURNS[:3]) == encode_conversation(BYTES, TWO_TURNS[:2])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no messages"),
        ([{"role": "system", "content": "x"}], "no messages"),
        ([{"role": "users", "content": "x"}], "unknown role"),
        (["text"], "unknown role"),
        ([{"role": "user", "content": " \n"}], "empty turn"),
        ([{"role": "user"}], "no text"),
        ([{"role": "user", "content": "\ud800"}], "invalid Unicode"),
        ([{"role": "assistant", "content": "x"}], "roles out of order"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": "x"}], "roles out of order"),
        ([*TWO_TURNS[:2], {"role": "system", "content": "x"}], "roles out of order"),
        (TWO_TURNS[:2], "roles out of order"),  # nothing to answer
    ],
)
def test_invalid_prompts_explain_why(messages, reason):
    with pytest.raises(ConversationError) as caught:
        encode_prompt(BYTES, messages)
    assert caught.value.reason == reason


def test_a_continued_answer_ends_where_its_text_ends():
    begun = [*TWO_TURNS[:3], {"role": "assistant", "content": "Becau"}]
    ids = encode_prompt(BYTES, begun, continue_final_message=True)
    assert ids == [*encode_prompt(BYTES, begun[:3]), *BYTES.encode("Becau")]
    assert ids == encode_conversation(BYTES, begun).ids[:-1]


def test_only_an_answer_can_be_continued():
    with pytest.raises(ConversationError, match="from the user; expected one from the assistant"):
        encode_prompt(BYTES, TWO_TURNS[:3], continue_final_message=True)


def render_jinja(messages, template=TEMPLATE_NAME, **options):
    """The exported template with the settings that transformers gives Jinja."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message):
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    text = chat_template(template=template, mark_answers=False)
    return environment.from_string(text).render(messages=messages, bos_token="<s>", eos_token="</s>", **options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_jinja_template_matches_the_renderer(name):
    for messages in (TWO_TURNS, [SYSTEM, *TWO_TURNS]):
        assert render_jinja(messages, name) == render_text(read_turns(messages, template=name))
        begun = render_text(read_turns(messages[:-1], template=name))
        assert render_jinja(messages[:-1], name, add_generation_prompt=True) == begun
    assert render_jinja(TWO_TURNS[:3]) == render_text(read_turns(TWO_TURNS[:2]))
    with pytest.raises(Exception, match="roles out of order"):
        render_jinja(TWO_TURNS[1:])


@pytest.fixture(scope="module")
def llama_tokenizer(real_data, tmp_path_factory):
    """The real vocabulary as the pipeline loads it."""
    from tokenizer import load_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    shutil.copyfile(real_data / "tokenizer" / "codellama_reconstructed.model", directory / "tokenizer.model")
    return load_tokenizer(directory)


def test_prompt_and_answer_ids_equal_those_of_the_whole(real_data, llama_tokenizer):
    turns = 0
    for line in (real_data / "lima" / "lima_sample_100.jsonl").read_text(encoding="utf-8").splitlines():
        texts = json.loads(line)["conversations"]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        whole = []
        for turn in read_turns(messages):
            whole += llama_tokenizer.encode(f"{turn.prompt} {turn.assistant}", add_bos=True, add_eos=True)
            turns += 1
        assert encode_conversation(llama_tokenizer, messages).ids == whole
    assert turns == 127


def test_answers_cut_anywhere_have_the_ids_of_the_whole(real_data, llama_tokenizer):
    line = (real_data / "lima" / "lima_sample_100.jsonl").read_text(encoding="utf-8").splitlines()[0]
    question, answer = json.loads(line)["conversations"][:2]
    for length in range(1, 80):
        begun = [{"role": "user", "content": question}, {"role": "assistant", "content": answer[:length]}]
        whole = llama_tokenizer.encode(f"User: {question}\nAssistant: {answer[:length]}", add_bos=True)
        assert encode_prompt(llama_tokenizer, begun, continue_final_message=True) == whole
