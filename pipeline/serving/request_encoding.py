"""From a validated request to what the engine needs: prompts as token ids, and the settings of each answer.

encoder = RequestEncoder(engine, config.generation, config.server)
prompts, constraint = await encoder.encode_chat(served, body, max_tokens)
jobs = encoder.jobs(EncodedRequest(served, body, prompts, max_tokens, ...))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.generation.config import GenerationConfig
from pipeline.generation.json_constraint import JsonGrammars
from pipeline.generation.settings import GenerationSettings, OverflowWords, check_prompt, prompt_room
from pipeline.generation.token_rules import Constraint
from pipeline.serving.config import ServerConfig
from pipeline.serving.engine import Engine, ServedModel
from pipeline.serving.errors import ApiError
from pipeline.serving.prompts import PromptEncoder, Prompts, encode_chat, encode_texts, plain_messages, text_ids
from pipeline.serving.request_limits import check_ids, check_max_tokens, check_num_answers, check_num_characters
from pipeline.serving.request_schemas import ChatCompletionRequest, CompletionRequest, SamplingRequest, TokenizeRequest
from pipeline.serving.response_formatter import ResponseFormatter
from utils.errors import PipelineError

_TRUNCATE = 'send "truncation": "auto"'

EncodedPrompts = tuple[Prompts, Constraint | None]


@dataclass(frozen=True)
class NewTokens:
    """The number of new tokens that a request asks for, and the field that it uses for it."""

    most: int | None
    field: str = "max_tokens"


@dataclass(frozen=True)
class EncodedRequest:
    """A validated completion or chat request with encoded prompts.

    `logprobs` is the number of alternatives to report for each token; None omits log-probabilities. If the request has
    no number of new tokens, the answer gets `default_max_tokens`, or, if that is None too, all the room left in the
    context.
    """

    served: ServedModel
    sampling: SamplingRequest
    prompts: Prompts
    new_tokens: NewTokens
    logprobs: int | None
    formatter: ResponseFormatter
    default_max_tokens: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts.ids))


class RequestEncoder:
    """Checks requests against the limits and encodes their prompts."""

    def __init__(self, engine: Engine, generation: GenerationConfig, server: ServerConfig) -> None:
        self.defaults = replace(GenerationSettings.from_config(generation), on_overflow="refuse")
        self._engine = engine
        self._server = server
        self._encoder = PromptEncoder(server.max_waiting)
        self._grammars = {name: JsonGrammars(served.tokenizer) for name, served in engine.models.items()}

    def close(self) -> None:
        self._encoder.close()

    async def encode_texts(self, served: ServedModel, body: CompletionRequest) -> EncodedPrompts:
        """The prompts of a completion, and the constraint of its answers if the request has a response format."""
        given = body.prompts()
        new_tokens = NewTokens(body.max_tokens)
        self._check_counts(body, len(given), new_tokens)
        for prompt in given:
            if isinstance(prompt, str):
                check_num_characters([prompt], served)
        room = self._prompt_room(served, body, new_tokens)
        return await self._encode(served, body, len(given), lambda: encode_texts(served.tokenizer, given, room=room))

    async def encode_chat(
        self, served: ServedModel, body: ChatCompletionRequest, new_tokens: NewTokens
    ) -> EncodedPrompts:
        """The prompt of a conversation, and the constraint of its answer if the request has a response format."""
        self._check_counts(body, 1, new_tokens)
        needed = body.messages[-1:] if body.may_truncate else body.messages
        check_num_characters([message.content for message in needed], served, advice=_advice_if_too_long(body))
        encode = partial(
            encode_chat,
            served.tokenizer,
            plain_messages(body.messages),
            template=served.template,
            room=self._prompt_room(served, body, new_tokens),
            continue_final_message=body.continue_final_message,
        )
        return await self._encode(served, body, 1, encode)

    async def tokenize(self, served: ServedModel, body: TokenizeRequest) -> list[int]:
        """The ids of a text or of a conversation, with nothing left out."""
        if body.messages is None:
            text = body.prompt or ""
            check_num_characters([text], served)
            encode = partial(text_ids, served.tokenizer, text, add_bos=body.add_special_tokens)
            return await self._encoder.encode(encode, num_answers=1)
        check_num_characters([message.content for message in body.messages], served)
        chat = partial(
            encode_chat,
            served.tokenizer,
            plain_messages(body.messages),
            template=served.template,
            continue_final_message=body.continue_final_message,
        )
        return (await self._encoder.encode(chat, num_answers=1)).ids[0]

    def jobs(self, encoded: EncodedRequest) -> list[tuple[Sequence[int], GenerationSettings]]:
        """The prompt and the settings of each answer, checked against the model's context."""
        return [
            (ids, self._settings(encoded, ids, choice))
            for ids in encoded.prompts.ids
            for choice in range(encoded.sampling.n)
        ]

    def _check_counts(self, body: SamplingRequest, num_prompts: int, new_tokens: NewTokens) -> None:
        """Refuse a request that exceeds the limits before doing any work for it."""
        check_num_answers(num_prompts, body.n, most=self._server.max_waiting)
        if not body.may_truncate:
            check_max_tokens(new_tokens.most, field=new_tokens.field, most=self._server.max_tokens)

    def _prompt_room(self, served: ServedModel, body: SamplingRequest, new_tokens: NewTokens) -> int | None:
        """The tokens that a prompt may take before its oldest part is dropped; None: nothing may be dropped."""
        if not body.may_truncate:
            return None
        wanted = min(new_tokens.most or self.defaults.max_length, self._server.max_tokens)
        return prompt_room(wanted, context=served.context)

    async def _encode(
        self, served: ServedModel, body: SamplingRequest, num_prompts: int, encode: Callable[[], Prompts]
    ) -> EncodedPrompts:
        num_answers = num_prompts * body.n
        self._engine.check_room(served, num_answers)
        answer_format = body.answer_format()
        schema = answer_format.answer_schema if answer_format else None

        def encode_and_compile() -> EncodedPrompts:
            return encode(), None if schema is None else _compile_schema(self._grammars[served.name], schema)

        return await self._encoder.encode(encode_and_compile, num_answers=num_answers)

    def _settings(self, encoded: EncodedRequest, prompt_ids: Sequence[int], choice: int) -> GenerationSettings:
        """Each choice has its own seed."""
        served = encoded.served
        sampling = encoded.sampling
        most = encoded.new_tokens.most
        room = max(1, min(served.context - len(prompt_ids), self._server.max_tokens))
        max_length = most or encoded.default_max_tokens or room
        if most is None or sampling.may_truncate:
            max_length = min(max_length, room)
        seed = None if sampling.seed is None else (sampling.seed + choice) % 2**63
        settings = replace(
            sampling.apply_to(self.defaults),
            max_length=max_length,
            seed=seed,
            logprobs=encoded.logprobs,
            prompt_logprobs=encoded.prompt_logprobs,
            constraint=encoded.constraint,
        )
        check_ids("logit_bias", [token for token, _ in settings.logit_bias], served)
        words = OverflowWords(
            new_tokens=encoded.new_tokens.field,
            if_no_room="shorten the last message" if sampling.may_truncate else _TRUNCATE,
            if_too_long=_advice_if_too_long(sampling),
        )
        check_prompt(prompt_ids, settings, context=served.context, vocab_size=served.vocab_size, words=words)
        return settings


def _advice_if_too_long(body: SamplingRequest) -> str:
    return "shorten it" if body.may_truncate else f"shorten it, or {_TRUNCATE}"


def _compile_schema(grammars: JsonGrammars, schema: Mapping[str, object]) -> Constraint:
    try:
        return grammars.compile(schema)
    except PipelineError as error:
        raise ApiError(400, f"response_format: {error}", param="response_format") from None
