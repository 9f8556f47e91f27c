"""The routes: OpenAI's completions and chat, the list of models, health, metrics, and the page at /.

app = create_app(engine, config.generation, config.server, api_key=None)
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from pipeline.formats.chat_template import encode_prompt
from pipeline.generation.config import GenerationConfig
from pipeline.generation.settings import GenerationSettings, check_prompt, check_text
from pipeline.serving.access import AllowedHosts, ApiKey, host_names
from pipeline.serving.config import ServerConfig
from pipeline.serving.engine import Answers, Engine, ServedModel
from pipeline.serving.errors import DOCUMENTED_ERRORS, ApiError, add_error_handlers, as_api_error, error_body
from pipeline.serving.json_body import JsonRoute
from pipeline.serving.prometheus_metrics import Metrics
from pipeline.serving.prompts import PromptEncoder, Prompts, ThreadTokenizer, encode_text_or_ids
from pipeline.serving.request_limits import BodyLimit, check_max_tokens, check_num_answers, check_num_characters
from pipeline.serving.request_schemas import ChatCompletionRequest, CompletionRequest, SamplingRequest
from pipeline.serving.response_formatter import (
    ChatCompletionResponse,
    ChatShape,
    Choice,
    CompletionResponse,
    CompletionShape,
    ModelCard,
    ModelList,
    Shape,
)
from utils.errors import did_you_mean

PAGE = Path(__file__).with_name("chat_page.html")
# The page is one file with its script and style inside; nothing else may run in it or be fetched by it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def create_app(
    engine: Engine, generation: GenerationConfig, server: ServerConfig, *, api_key: str | None = None
) -> FastAPI:
    """The whole application; the engine is started and stopped with it."""

    routes = Routes(engine, generation, server, Metrics(engine))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.stop()
        routes.encoder.close()

    app = FastAPI(
        title="Language model server",
        description="OpenAI's API over the checkpoints of this machine.",
        version="1",
        lifespan=lifespan,
    )
    app.router.route_class = JsonRoute
    add_error_handlers(app)
    # The last one added comes first: of a request that may not ask, no body is read.
    app.add_middleware(BodyLimit, max_bytes=server.max_body_bytes)
    if api_key:
        app.add_middleware(ApiKey, key=api_key)
    app.add_middleware(AllowedHosts, names=host_names(server))
    routes.add_to(app)
    return app


class Routes:
    """What the paths answer."""

    def __init__(self, engine: Engine, generation: GenerationConfig, server: ServerConfig, metrics: Metrics) -> None:
        self.engine = engine
        self.defaults = replace(GenerationSettings.from_config(generation), on_overflow="refuse")
        self.server = server
        self.metrics = metrics
        self.encoder = PromptEncoder(server.max_waiting)

    def add_to(self, app: FastAPI) -> None:
        post = {"responses": DOCUMENTED_ERRORS}
        app.post("/v1/completions", response_model=CompletionResponse, tags=["OpenAI"], **post)(self.completions)
        app.post("/v1/chat/completions", response_model=ChatCompletionResponse, tags=["OpenAI"], **post)(self.chat)
        app.get("/v1/models", tags=["OpenAI"])(self.models)
        app.get("/v1/models/{name}", tags=["OpenAI"], responses={404: DOCUMENTED_ERRORS[404]})(self.model)
        app.get("/health", tags=["operation"])(self.health)
        app.get("/metrics", tags=["operation"], response_class=Response)(self.prometheus)
        app.get("/", include_in_schema=False)(self.page)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """Continues a text, or several."""
        served = self._served(body.model)
        given = body.prompts()
        self._check_counts(body, len(given), body.max_tokens)
        for prompt in given:
            if isinstance(prompt, str):
                check_num_characters([prompt], served)
        prompts = await self._encode(
            served, body, len(given), lambda: [encode_text_or_ids(served.tokenizer, prompt) for prompt in given]
        )
        shape = CompletionShape(served.name, served.token_bytes, with_logprobs=body.logprobs is not None)
        return await self._answer(request, body, served, prompts, shape, body.max_tokens, body.logprobs)

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """Answers a conversation; for fine-tuned checkpoints, with the template they were trained with."""
        served = self._served(body.model)
        if not served.is_chat:
            message = f"{served.name} is a base model and has learned no conversation; use /v1/completions"
            raise ApiError(400, message, param="model", code="no_chat_model")
        max_tokens = body.max_completion_tokens or body.max_tokens
        self._check_counts(body, 1, max_tokens)
        check_num_characters([message.content for message in body.messages], served)
        messages = [_plain_message(message.role, message.content) for message in body.messages]
        prompts = await self._encode(
            served, body, 1, lambda: [encode_prompt(ThreadTokenizer(served.tokenizer), messages)]
        )
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        shape = ChatShape(served.name, served.token_bytes, with_logprobs=body.logprobs)
        return await self._answer(request, body, served, prompts, shape, max_tokens, logprobs)

    async def models(self) -> ModelList:
        """The models by name."""
        return ModelList(data=[_card(each) for each in self.engine.models.values()])

    async def model(self, name: str) -> ModelCard:
        """One model."""
        return _card(self._served(name))

    async def health(self) -> dict[str, Any]:
        """``ok``, with how many requests are being answered and how many wait."""
        return {"status": "ok", "running": self.engine.num_running, "waiting": self.engine.num_waiting}

    async def prometheus(self) -> Response:
        """Counters and gauges in Prometheus' text format."""
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def page(self) -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_POLICY})

    async def _answer(
        self,
        request: Request,
        body: SamplingRequest,
        served: ServedModel,
        prompts: Sequence[Sequence[int]],
        shape: Shape,
        max_tokens: int | None,
        logprobs: int | None,
    ) -> Response:
        jobs = [
            (ids, self._settings(body, served, ids, max_tokens, logprobs, choice))
            for ids in prompts
            for choice in range(body.n)
        ]
        num_prompt_tokens = sum(map(len, prompts))
        answers = self.engine.submit(served, jobs)
        self.metrics.prompt_tokens.labels(served.name).inc(num_prompt_tokens)
        if body.stream:
            events = self._stream(answers, served, shape, num_prompt_tokens, include_usage=body.include_usage())
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        choices = await self._gather(request, answers, served)
        return JSONResponse(shape.whole(choices, num_prompt_tokens)) if choices else Response(status_code=499)

    def _served(self, name: str | None) -> ServedModel:
        models = self.engine.models
        if name is None:
            return next(iter(models.values()))
        if name not in models:
            message = f"no model {name!r} here, only {', '.join(models)}{did_you_mean(name, models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return models[name]

    def _check_counts(self, body: SamplingRequest, num_prompts: int, max_tokens: int | None) -> None:
        """Refuses what asks for too much before any work is done for it."""
        check_num_answers(num_prompts, body.n, most=self.server.max_waiting)
        check_max_tokens(max_tokens, most=self.server.max_tokens)

    async def _encode(
        self, served: ServedModel, body: SamplingRequest, num_prompts: int, encode: Callable[[], Prompts]
    ) -> Prompts:
        num_answers = num_prompts * body.n
        self.engine.check_room(served, num_answers)
        return await self.encoder.encode(encode, num_answers=num_answers)

    def _settings(
        self,
        body: SamplingRequest,
        served: ServedModel,
        prompt_ids: Sequence[int],
        max_tokens: int | None,
        logprobs: int | None,
        choice: int,
    ) -> GenerationSettings:
        """The request's settings, checked against the model's context; each choice draws with a seed of its own."""
        room = served.context - len(prompt_ids)
        given = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
        settings = replace(
            self.defaults,
            **{name: value for name, value in given.items() if value is not None},
            max_length=max_tokens or max(1, min(self.defaults.max_length, self.server.max_tokens, room)),
            seed=None if body.seed is None else (body.seed + choice) % 2**63,
            stop=body.stops(),
            logprobs=logprobs,
        )
        check_prompt(prompt_ids, settings, context=served.context, vocab_size=served.vocab_size)
        return settings

    async def _gather(self, request: Request, answers: Answers, served: ServedModel) -> list[Choice]:
        """The finished answers; none where the client goes away first."""
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
            self.metrics.count_answer(served.name, sum(len(choice.events) for choice in choices))
            return choices
        finally:
            answers.cancel()
            reading.cancel()
            leaving.cancel()

    async def _stream(
        self, answers: Answers, served: ServedModel, shape: Shape, num_prompt_tokens: int, *, include_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events; an error after the first is one more event. Closed early, it frees the places."""
        num_tokens = 0
        try:
            for chunk in shape.opening(len(answers.jobs)):
                yield _server_sent(chunk)
            async for index, event in answers:
                num_tokens += 1
                yield _server_sent(shape.chunk(index, event))
            if include_usage:
                yield _server_sent(shape.usage_chunk(num_prompt_tokens, num_tokens))
        except Exception as error:
            yield _server_sent(error_body(as_api_error(error)))
        finally:
            answers.cancel()
            self.metrics.count_answer(served.name, num_tokens)
        yield "data: [DONE]\n\n"


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _server_sent(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _plain_message(role: str, content: str) -> dict[str, str]:
    """OpenAI's newer clients call the system's role developer."""
    return {"role": "system" if role == "developer" else role, "content": check_text(content)}


def _card(served: ServedModel) -> ModelCard:
    return ModelCard(
        id=served.name, created=served.created, context_length=served.context, supports_chat=served.is_chat
    )
