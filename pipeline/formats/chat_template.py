"""The chat template: conversations as token ids, for preparation, training, terminal, server and export.

    [bos]System: …\\nUser: …\\nAssistant: …[eos][bos]User: …\\nAssistant: …[eos]

The system turn is optional. Models tuned before it existed have the template WITHOUT_SYSTEM, which puts a system
message in front of the first question.

BOS and EOS are ids, never text, so ``</s>`` in a user's text is just four characters. A prompt ends with ``Assistant:``
without a space, and the answer is encoded separately: SentencePiece's prefix adds the space, so the ids equal those of
the whole text.

    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    encode_prompt(tokenizer, messages)                      # ids for the model to answer
    encode_conversation(tokenizer, messages + [answer])     # ids, and a mask of the learned tokens
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.tokenization.interface import TextEncoder
from utils.errors import PipelineError, did_you_mean

ROLES = ("system", "user", "assistant")
# Stored in metadata and checkpoints, because data and model must use the same template.
TEMPLATE_NAME = "user-assistant-v2"
WITHOUT_SYSTEM = "user-assistant-v1"
TEMPLATES = (TEMPLATE_NAME, WITHOUT_SYSTEM)

Message = Mapping[str, str]


class ConversationError(PipelineError):
    """A conversation that the template cannot render; `reason` is a short, fixed text for counting."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Turn:
    """A question and its answer, or None if it has none yet; the first turn may have a system message."""

    user: str
    assistant: str | None
    system: str = ""

    @property
    def prompt(self) -> str:
        system = f"System: {self.system}\n" if self.system else ""
        return f"{system}User: {self.user}\nAssistant:"


@dataclass(frozen=True)
class EncodedConversation:
    """Token ids, and a mask that is 1 for the assistant's tokens (its words and its EOS), else 0."""

    ids: list[int]
    mask: list[int]


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt without the oldest turns that did not fit, the messages left, and the number of turns dropped."""

    ids: list[int]
    messages: list[Message]
    num_dropped: int


def check_template(name: str, *, origin: str) -> str:
    """`name`; raise PipelineError if it is not one of TEMPLATES."""
    if name not in TEMPLATES:
        raise PipelineError(f"{origin} uses the chat template {name!r}; expected {' or '.join(TEMPLATES)}")
    return name


def read_turns(messages: Sequence[Message], *, template: str = TEMPLATE_NAME) -> list[Turn]:
    """The turns of OpenAI-style messages; the last may have no answer.

    Args:
        template: with WITHOUT_SYSTEM, a system message is prepended to the first question.

    Raises:
        ConversationError: no messages, a message without text, an unknown role, or roles out of order.
    """
    system, rest = _split_system(_checked(messages))
    if not rest:
        raise ConversationError("no messages", "expected at least one user message")
    turns: list[Turn] = []
    for index in range(0, len(rest), 2):
        question = rest[index]
        answer = rest[index + 1] if index + 1 < len(rest) else None
        if question["role"] != "user" or (answer and answer["role"] != "assistant"):
            roles = ", ".join(message["role"] for message in messages)
            raise ConversationError("roles out of order", f"found {roles}; expected user and assistant to alternate")
        turns.append(Turn(question["content"], answer["content"] if answer else None))
    return [_with_system(system, turns[0], template), *turns[1:]] if system else turns


def _with_system(system: str, turn: Turn, template: str) -> Turn:
    if template == WITHOUT_SYSTEM:
        return replace(turn, user=f"{system}\n\n{turn.user}")
    return replace(turn, system=system)


def encode_conversation(
    tokenizer: TextEncoder, messages: Sequence[Message], *, template: str = TEMPLATE_NAME
) -> EncodedConversation:
    """Ids and mask of a conversation; a final question without an answer is dropped."""
    turns = answered(read_turns(messages, template=template))
    return assemble(tokenizer, turns, map(tokenizer.encode, texts_of(turns)))


def encode_prompt(
    tokenizer: TextEncoder,
    messages: Sequence[Message],
    *,
    template: str = TEMPLATE_NAME,
    continue_final_message: bool = False,
) -> list[int]:
    """The ids before the assistant's next answer; the complete conversation starts with the same ids.

    With `continue_final_message`, the last message is the beginning of that answer, and no EOS follows it.

    Raises:
        ConversationError: as in `read_turns`, or the last message is not the user's (when continuing: the assistant's).
    """
    *past, last = read_turns(messages, template=template)
    found, expected = ("user", "assistant") if continue_final_message else ("assistant", "user")
    if (last.assistant is None) == continue_final_message:
        raise ConversationError(
            "roles out of order", f"the last message is from the {found}; expected one from the {expected}"
        )
    encoded = assemble(tokenizer, past, map(tokenizer.encode, texts_of(past)))
    ids = [*encoded.ids, tokenizer.bos_id]
    for text in texts_of([last]):
        ids += tokenizer.encode(text)
    return ids


def fit_prompt(
    tokenizer: TextEncoder,
    messages: Sequence[Message],
    *,
    room: int,
    template: str = TEMPLATE_NAME,
    continue_final_message: bool = False,
) -> FittedPrompt:
    """The ids of `encode_prompt`, without the oldest turns if they take more than `room` tokens.

    The system message and the last turn are always kept. No more turns are encoded than fit.

    Raises:
        ConversationError: as in `encode_prompt`.
    """
    read_turns(messages)  # before anything is encoded
    system, rest = _split_system(messages)
    head = list(messages[: len(messages) - len(rest)])
    turns = read_turns(rest)
    first = len(turns) - 1
    left = room - _num_tokens(tokenizer, turns[-1])
    if system:
        # How many tokens it takes depends on where it is put. Half is certainly not too many; the rest is tried below.
        left -= len(tokenizer.encode(system)) // 2
    while first > 0 and (left := left - _num_tokens(tokenizer, turns[first - 1])) >= 0:
        first -= 1
    while True:
        kept = [*head, *rest[2 * first :]]
        ids = encode_prompt(tokenizer, kept, template=template, continue_final_message=continue_final_message)
        if len(ids) <= room or first == len(turns) - 1:
            return FittedPrompt(ids, kept, first)
        first += 1


def _num_tokens(tokenizer: TextEncoder, turn: Turn) -> int:
    """The tokens of a turn with its BOS and, if it is answered, its EOS."""
    return sum(1 + len(tokenizer.encode(text)) for text in texts_of([turn]))


def answered(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.assistant is not None]


def texts_of(turns: Sequence[Turn]) -> Iterator[str]:
    """The texts to encode separately: each turn's prompt, then its answer. Allows callers to batch."""
    for turn in turns:
        yield turn.prompt
        if turn.assistant is not None:
            yield turn.assistant


def assemble(
    tokenizer: TextEncoder, turns: Sequence[Turn], encoded_texts: Iterator[Sequence[int]]
) -> EncodedConversation:
    """Assemble a conversation from the ids of `texts_of(turns)`, taken in order from `encoded_texts`."""
    ids: list[int] = []
    mask: list[int] = []
    for _ in turns:
        prompt, answer = next(encoded_texts), next(encoded_texts)
        ids += [tokenizer.bos_id, *prompt, *answer, tokenizer.eos_id]
        mask += [0] * (1 + len(prompt)) + [1] * (len(answer) + 1)
    return EncodedConversation([int(token) for token in ids], mask)


def render_text(turns: Sequence[Turn]) -> str:
    """The conversation in readable form, with BOS and EOS written out."""
    answers = ["" if turn.assistant is None else f" {turn.assistant}</s>" for turn in turns]
    return "".join(f"<s>{turn.prompt}{answer}" for turn, answer in zip(turns, answers, strict=True))


def chat_template(*, template: str = TEMPLATE_NAME, mark_answers: bool = True) -> str:
    """The same template in Jinja, for exported folders.

    `mark_answers` adds the generation markers that give transformers and TRL the assistant mask; other programs may not
    support them. Because Jinja renders text, a ``<s>`` typed by a user becomes BOS.
    """
    begin, end = ("{%- generation -%}", "{%- endgeneration -%}") if mark_answers else ("", "")
    system, question = _JINJA_PARTS[template]
    marked = _JINJA.replace("BEGIN", begin).replace("END", end)
    return marked.replace("SYSTEM", system).replace("QUESTION", question)


# Template → the system message, and what precedes the content of a question.
_JINJA_PARTS = {
    TEMPLATE_NAME: (
        r"'System: ' + messages[0]['content'] + '\n'",
        "(state.system if loop.first else '') + 'User: '",
    ),
    WITHOUT_SYSTEM: (
        r"messages[0]['content'] + '\n\n'",
        "'User: ' + (state.system if loop.first else '')",
    ),
}

# The error for roles out of order is the same as above. The space before an answer is in the marked part, because it is
# the first character of the answer's first token.
_JINJA = """\
{%- set state = namespace(system='', offset=0) -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set state.system = SYSTEM -%}
    {%- set state.offset = 1 -%}
{%- endif -%}
{%- for message in messages[state.offset:] -%}
    {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
        {{- raise_exception('roles out of order: expected user and assistant in turn') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {%- if not loop.last or add_generation_prompt -%}
            {{- bos_token + QUESTION + message['content'] + '\\nAssistant:' -}}
        {%- endif -%}
    {%- else -%}
        BEGIN{{- ' ' + message['content'] + eos_token -}}END
    {%- endif -%}
{%- endfor -%}
"""


def _checked(messages: Sequence[Message]) -> list[Message]:
    """`messages`, after checking that each has a known role and some text."""
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise ConversationError(
                "unknown role", f"{role!r}; expected one of {', '.join(ROLES)}{did_you_mean(str(role), ROLES)}"
            )
        content = message.get("content")
        if not isinstance(content, str):
            raise ConversationError("no text", f"a message with role {role} has no text in `content`")
        if not content.strip():
            raise ConversationError("empty turn", f"a message with role {role} is empty")
        if any("\ud800" <= character <= "\udfff" for character in content):
            raise ConversationError("invalid Unicode", f"a message with role {role} contains a lone surrogate")
    return list(messages)


def _split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    if messages and messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return "", messages
