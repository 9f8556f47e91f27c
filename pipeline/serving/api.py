"""The routes: OpenAI's completions and chat, the list of models, health, metrics, and the page at /.

app = create_app(engine, config.generation, config.server, api_key=None)
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse

from pipeline.generation.config import GenerationConfig
from pipeline.generation.json_constraint import JsonGrammars
from pipeline.generation.settings import GenerationSettings, check_prompt, prompt_room
from pipeline.generation.token_rules import Constraint
from pipeline.serving.config import ServerConfig
from pipeline.serving.engine import Answers, Engine, ServedModel
from pipeline.serving.errors import DOCUMENTED_ERRORS, ApiError, add_error_handlers, as_api_error, error_body
from pipeline.serving.json_body import JsonRoute
from pipeline.serving.prometheus_metrics import Metrics
from pipeline.serving.prompts import (
    PromptEncoder,
    Prompts,
    chat_ids,
    encode_chat,
    encode_texts,
    plain_messages,
    text_ids,
)
from pipeline.serving.request_limits import (
    BodyLimit,
    check_ids,
    check_max_tokens,
    check_num_answers,
    check_num_characters,
)
from pipeline.serving.request_schemas import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    DetokenizeRequest,
    SamplingRequest,
    TokenizeRequest,
)
from pipeline.serving.response_formatter import (
    ChatCompletionResponse,
    ChatFormatter,
    Choice,
    CompletionFormatter,
    CompletionResponse,
    DefaultSettings,
    DetokenizeResponse,
    Echo,
    ModelCard,
    ModelList,
    ResponseFormatter,
    TokenizeResponse,
    token_text,
)
from pipeline.serving.responses_api import ResponsesFormatter, ResponsesRequest
from pipeline.web.access import AllowedHosts, ApiKey, check_origins, host_names
from pipeline.web.early_answers import CloseAfterEarlyAnswer
from pipeline.web.extra_page import ExtraPage
from pipeline.web.static_files import PackagedFiles
from pipeline.web.theme import SHARED_FILES
from utils.errors import PipelineError, did_you_mean

PAGE_FOLDER = Path(__file__).with_name("page")
_TRUNCATE = 'send "truncation": "auto"'


def create_app(
    engine: Engine,
    generation: GenerationConfig,
    server: ServerConfig,
    *,
    api_key: str | None = None,
    pages: Sequence[ExtraPage] = (),
) -> FastAPI:
    """The application with the chat page and other `pages`; it starts and stops the engine."""
    routes = Routes(engine, generation, server, Metrics(engine))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()
        routes.encoder.close()

    app = FastAPI(
        title="Language model server",
        description="An OpenAI-compatible API for the checkpoints on this machine.",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from the web
        redoc_url=None,
    )
    app.router.route_class = JsonRoute
    add_error_handlers(app)
    # The middleware added last runs first, so requests without access are refused before their body is read.
    app.add_middleware(BodyLimit, max_bytes=server.max_body_bytes)
    if api_key:
        app.add_middleware(ApiKey, key=api_key)
    if server.cors_origins:  # before the key, because browsers ask for permission without it
        app.add_middleware(
            CORSMiddleware,
            allow_origins=check_origins(server.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(AllowedHosts, names=host_names(server.host, server.allowed_hosts))
    app.add_middleware(CloseAfterEarlyAnswer)
    routes.add_to(app)
    for page in pages:
        app.router.routes.extend(page.routes)
    names = [{"name": page.name, "path": page.path} for page in pages]
    app.get("/pages", include_in_schema=False)(lambda: names)  # the chat page links to them
    return app


@dataclass(frozen=True)
class EncodedRequest:
    """A validated completion or chat request with encoded prompts.

    `logprobs` is the number of alternatives to report for each token; None omits log-probabilities. If the request has
    no `max_tokens`, the answer gets `default_max_tokens`, or, if that is None too, all the room left in the context.
    """

    served: ServedModel
    sampling: SamplingRequest
    prompts: Prompts
    max_tokens: int | None
    logprobs: int | None
    formatter: ResponseFormatter
    default_max_tokens: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts.ids))


class Routes:
    """One handler method per path."""

    def __init__(self, engine: Engine, generation: GenerationConfig, server: ServerConfig, metrics: Metrics) -> None:
        self.engine = engine
        self.defaults = replace(GenerationSettings.from_config(generation), on_overflow="refuse")
        self.server = server
        self.metrics = metrics
        self.encoder = PromptEncoder(server.max_waiting)
        self.grammars = {name: JsonGrammars(served.tokenizer) for name, served in engine.models.items()}

    def add_to(self, app: FastAPI) -> None:
        complete = app.post(
            "/v1/completions", response_model=CompletionResponse, tags=["OpenAI"], responses=DOCUMENTED_ERRORS
        )
        chat = app.post(
            "/v1/chat/completions", response_model=ChatCompletionResponse, tags=["OpenAI"], responses=DOCUMENTED_ERRORS
        )
        complete(self.completions)
        chat(self.chat)
        app.post("/v1/responses", tags=["OpenAI"], responses=DOCUMENTED_ERRORS)(self.responses)
        app.get("/v1/models", tags=["OpenAI"])(self.models)
        app.get("/v1/models/{name:path}", tags=["OpenAI"], responses={404: DOCUMENTED_ERRORS[404]})(self.model)
        app.post("/tokenize", tags=["tokens"], responses=DOCUMENTED_ERRORS)(self.tokenize)
        app.post("/detokenize", tags=["tokens"], responses=DOCUMENTED_ERRORS)(self.detokenize)
        app.get("/health", tags=["operation"])(self.health)
        app.get("/metrics", tags=["operation"], response_class=Response)(self.prometheus)
        files = PackagedFiles(PAGE_FOLDER, *SHARED_FILES)
        app.add_route("/", files.page("index.html"))
        app.add_route("/docs", files.page("docs.html"))
        app.add_route("/static/{name:path}", files.serve)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Continue one or several texts."""
        served = self._served(body.model)
        given = body.prompts()
        self._check_counts(body, len(given), body.max_tokens)
        for prompt in given:
            if isinstance(prompt, str):
                check_num_characters([prompt], served)
        room = self._prompt_room(served, body, body.max_tokens)
        prompts, constraint = await self._encode(
            served, body, len(given), lambda: encode_texts(served.tokenizer, given, room=room)
        )
        formatter = CompletionFormatter(
            served.name,
            served.token_bytes,
            with_logprobs=body.logprobs is not None,
            with_token_ids=body.return_token_ids,
        )
        if body.may_truncate:
            formatter.report["dropped_tokens"] = prompts.num_dropped
        ids_of_choices = [ids for ids in prompts.ids for _ in range(body.n)]
        if body.return_token_ids:
            formatter.prompt_ids = ids_of_choices
        if body.echo:
            formatter.echo = Echo(ids_of_choices, with_answer=body.max_tokens != 0)
        encoded = EncodedRequest(
            served,
            body,
            prompts,
            1 if body.max_tokens == 0 else body.max_tokens,  # the formatter leaves it out
            body.logprobs,
            formatter,
            default_max_tokens=self.defaults.max_length,  # a base model may never end a text by itself
            prompt_logprobs=body.logprobs if body.echo else None,
            constraint=constraint,
        )
        return await self._answer(request, encoded)

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation, using the template that the checkpoint was fine-tuned with."""
        served = self._served(body.model)
        formatter = ChatFormatter(
            served.name, served.token_bytes, with_logprobs=body.logprobs, with_token_ids=body.return_token_ids
        )
        return await self._chat(served, body, formatter, request)

    async def responses(self, body: ResponsesRequest, request: Request) -> Response:
        """Answer a text or a conversation in the form of OpenAI's Responses API."""
        served = self._served(body.model)
        chat = body.as_chat()
        formatter = ResponsesFormatter(served.name, served.token_bytes, body, with_logprobs=chat.logprobs)
        return await self._chat(served, chat, formatter, request)

    async def _chat(
        self, served: ServedModel, body: ChatCompletionRequest, formatter: ChatFormatter, request: Request
    ) -> Response:
        check_can_chat(served)
        max_tokens = body.max_completion_tokens or body.max_tokens
        self._check_counts(body, 1, max_tokens)
        prompts, constraint = await self._encode_chat(served, body, body.messages, max_tokens)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        if body.may_truncate:
            formatter.report["dropped_turns"] = prompts.num_dropped
        if body.return_token_ids:
            formatter.report["prompt_token_ids"] = prompts.ids[0]
        encoded = EncodedRequest(served, body, prompts, max_tokens, logprobs, formatter, constraint=constraint)
        return await self._answer(request, encoded)

    async def tokenize(self, body: TokenizeRequest) -> TokenizeResponse:
        """The token ids of a text or of a conversation."""
        served = self._served(body.model)
        if body.messages is None:
            text = body.prompt or ""
            check_num_characters([text], served)
            encode = partial(text_ids, served.tokenizer, text, add_bos=body.add_special_tokens)
        else:
            check_can_chat(served)
            check_num_characters([message.content for message in body.messages], served)
            encode = partial(chat_ids, served.tokenizer, plain_messages(body.messages))
        ids = await self.encoder.encode(encode, num_answers=1)
        texts = [token_text(served.token_bytes[token]) for token in ids] if body.return_token_strs else None
        return TokenizeResponse(count=len(ids), max_model_len=served.context, tokens=ids, token_strs=texts)

    async def detokenize(self, body: DetokenizeRequest) -> DetokenizeResponse:
        """The text of token ids."""
        served = self._served(body.model)
        check_ids("tokens", body.tokens, served)
        return DetokenizeResponse(prompt=served.tokenizer.decode(body.tokens))

    async def models(self) -> ModelList:
        """The models by name."""
        return ModelList(data=[self._card(served) for served in self.engine.models.values()])

    async def model(self, name: str) -> ModelCard:
        """One model."""
        return self._card(self._served(name))

    async def health(self) -> dict[str, str | int]:
        """``ok``, and the number of running and waiting answers."""
        return {"status": "ok", "running": self.engine.num_running, "waiting": self.engine.num_waiting}

    async def prometheus(self) -> Response:
        """Counters and gauges in Prometheus text format."""
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def _answer(self, request: Request, encoded: EncodedRequest) -> Response:
        served = encoded.served
        jobs = [
            (ids, self._settings(encoded, ids, choice))
            for ids in encoded.prompts.ids
            for choice in range(encoded.sampling.n)
        ]
        answers = self.engine.submit(served, jobs)
        self.metrics.prompt_tokens.labels(served.name).inc(encoded.num_prompt_tokens)
        if encoded.sampling.stream:
            events = self._stream(answers, encoded)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        choices = await self._gather(request, answers, served)
        if not choices:
            return Response(status_code=499)
        return JSONResponse(encoded.formatter.whole(choices, encoded.num_prompt_tokens, answers.num_cached))

    def _served(self, name: str | None) -> ServedModel:
        models = self.engine.models
        if name is None:
            return next(iter(models.values()))
        if name not in models:
            message = f"unknown model {name!r}{did_you_mean(name, models)}; expected one of {', '.join(models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return models[name]

    def _check_counts(self, body: SamplingRequest, num_prompts: int, max_tokens: int | None) -> None:
        """Refuse a request that exceeds the limits before doing any work for it."""
        check_num_answers(num_prompts, body.n, most=self.server.max_waiting)
        if not body.may_truncate:
            check_max_tokens(max_tokens, most=self.server.max_tokens)

    def _prompt_room(self, served: ServedModel, body: SamplingRequest, max_tokens: int | None) -> int | None:
        """The tokens that a prompt may take before its oldest part is dropped; None: nothing may be dropped."""
        if not body.may_truncate:
            return None
        wanted = min(max_tokens or self.defaults.max_length, self.server.max_tokens)
        return prompt_room(wanted, context=served.context)

    async def _encode(
        self, served: ServedModel, body: SamplingRequest, num_prompts: int, encode: Callable[[], Prompts]
    ) -> tuple[Prompts, Constraint | None]:
        """The prompts, and the constraint of the answers if the request has a response format."""
        num_answers = num_prompts * body.n
        self.engine.check_room(served, num_answers)
        answer_format = body.answer_format()
        schema = answer_format.answer_schema if answer_format else None

        def encode_and_compile() -> tuple[Prompts, Constraint | None]:
            return encode(), None if schema is None else compile_schema(self.grammars[served.name], schema)

        return await self.encoder.encode(encode_and_compile, num_answers=num_answers)

    async def _encode_chat(
        self, served: ServedModel, body: SamplingRequest, messages: Sequence[ChatMessage], max_tokens: int | None
    ) -> tuple[Prompts, Constraint | None]:
        needed = messages[-1:] if body.may_truncate else messages
        advice = "shorten it" if body.may_truncate else f"shorten it, or {_TRUNCATE}"
        check_num_characters([message.content for message in needed], served, advice=advice)
        room = self._prompt_room(served, body, max_tokens)
        plain = plain_messages(messages)
        return await self._encode(served, body, 1, lambda: encode_chat(served.tokenizer, plain, room=room))

    def _settings(self, encoded: EncodedRequest, prompt_ids: Sequence[int], choice: int) -> GenerationSettings:
        """The settings of the request, checked against the model's context; each choice has its own seed."""
        served = encoded.served
        sampling = encoded.sampling
        room = max(1, min(served.context - len(prompt_ids), self.server.max_tokens))
        max_length = encoded.max_tokens or encoded.default_max_tokens or room
        if encoded.max_tokens is None or sampling.may_truncate:
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
        check_prompt(
            prompt_ids,
            settings,
            context=served.context,
            vocab_size=served.vocab_size,
            advice="shorten the last message" if sampling.may_truncate else _TRUNCATE,
            advice_if_too_long="shorten it" if sampling.may_truncate else f"shorten it, or {_TRUNCATE}",
        )
        return settings

    def _card(self, served: ServedModel) -> ModelCard:
        return ModelCard(
            id=served.name,
            created=served.created,
            context_window=served.context,
            context_length=served.context,
            supports_chat=served.is_chat,
            defaults=DefaultSettings(
                max_tokens=min(self.defaults.max_length, self.server.max_tokens, served.context),
                temperature=self.defaults.temperature,
                top_k=self.defaults.top_k,
                top_p=self.defaults.top_p,
                min_p=self.defaults.min_p,
                repetition_penalty=self.defaults.repetition_penalty,
            ),
        )

    async def _gather(self, request: Request, answers: Answers, served: ServedModel) -> list[Choice]:
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
            self.metrics.count_answer(served.name, sum(len(choice.events) for choice in choices), answers.num_cached)
            return choices
        finally:
            answers.cancel()
            reading.cancel()
            leaving.cancel()

    async def _stream(self, answers: Answers, encoded: EncodedRequest) -> AsyncIterator[str]:
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
            self.metrics.count_answer(encoded.served.name, num_tokens, answers.num_cached)
        if formatter.ends_with_done:
            yield "data: [DONE]\n\n"


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _server_sent(content: Mapping[str, object]) -> str:
    """One event; those of the Responses API have a type, which is also the event's name."""
    name = f"event: {content['type']}\n" if "type" in content else ""
    return f"{name}data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def compile_schema(grammars: JsonGrammars, schema: Mapping[str, object]) -> Constraint:
    try:
        return grammars.compile(schema)
    except PipelineError as error:
        raise ApiError(400, f"response_format: {error}", param="response_format") from None


def check_can_chat(served: ServedModel) -> None:
    if not served.is_chat:
        message = f"{served.name} is a base model, not trained on conversations; use /v1/completions"
        raise ApiError(400, message, param="model", code="no_chat_model")
