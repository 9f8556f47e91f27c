"""The routes: OpenAI's completions and chat, the list of models, health, metrics, and the page at /.

app = create_app(engine, config.generation, config.server, api_key=None)
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware

from pipeline.generation.config import GenerationConfig
from pipeline.serving.answering import answer
from pipeline.serving.config import ServerConfig
from pipeline.serving.engine import Engine, ServedModel
from pipeline.serving.errors import DOCUMENTED_ERRORS, ApiError, add_error_handlers
from pipeline.serving.json_body import JsonRoute
from pipeline.serving.prometheus_metrics import Metrics
from pipeline.serving.request_encoding import EncodedRequest, NewTokens, RequestEncoder
from pipeline.serving.request_limits import BodyLimit, check_ids
from pipeline.serving.request_schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from pipeline.serving.response_formatter import (
    ChatCompletionResponse,
    ChatFormatter,
    CompletionFormatter,
    CompletionResponse,
    DefaultSettings,
    DetokenizeResponse,
    Echo,
    ModelCard,
    ModelList,
    TokenizeResponse,
    token_text,
)
from pipeline.serving.responses_api import ResponsesFormatter, ResponsesRequest
from pipeline.web.access import AllowedHosts, ApiKey, check_origins, host_names
from pipeline.web.early_answers import CloseAfterEarlyAnswer
from pipeline.web.extra_page import ExtraPage
from pipeline.web.static_files import PackagedFiles
from pipeline.web.theme import SHARED_FILES
from utils.errors import did_you_mean

PAGE_FOLDER = Path(__file__).with_name("page")


def create_app(
    engine: Engine,
    generation: GenerationConfig,
    server: ServerConfig,
    *,
    api_key: str | None = None,
    pages: Sequence[ExtraPage] = (),
) -> FastAPI:
    """The application with the chat page and other `pages`; it starts and stops the engine."""
    routes = Routes(engine, generation, server)

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


class Routes:
    """One handler method per path."""

    def __init__(self, engine: Engine, generation: GenerationConfig, server: ServerConfig) -> None:
        self.engine = engine
        self.server = server
        self.metrics = Metrics(engine)
        self.encoder = RequestEncoder(engine, generation, server)

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
        prompts, constraint = await self.encoder.encode_texts(served, body)
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
            NewTokens(1 if body.max_tokens == 0 else body.max_tokens),  # the formatter leaves it out
            body.logprobs,
            formatter,
            default_max_tokens=self.encoder.defaults.max_length,  # a base model may never end a text by itself
            prompt_logprobs=body.logprobs if body.echo else None,
            constraint=constraint,
        )
        return await self._answer(request, encoded)

    async def chat(self, body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation, using the template that the checkpoint was fine-tuned with."""
        served = self._served(body.model)
        check_ending(body)
        formatter = ChatFormatter(
            served.name, served.token_bytes, with_logprobs=body.logprobs, with_token_ids=body.return_token_ids
        )
        return await self._chat(served, body, formatter, request)

    async def responses(self, body: ResponsesRequest, request: Request) -> Response:
        """Answer a text or a conversation in the form of OpenAI's Responses API."""
        served = self._served(body.model)
        chat = body.as_chat()
        formatter = ResponsesFormatter(served.name, served.token_bytes, body, with_logprobs=chat.logprobs)
        return await self._chat(served, chat, formatter, request, length_field="max_output_tokens")

    async def _chat(
        self,
        served: ServedModel,
        body: ChatCompletionRequest,
        formatter: ChatFormatter,
        request: Request,
        *,
        length_field: str | None = None,
    ) -> Response:
        check_can_chat(served)
        new_tokens = NewTokens(body.most_new_tokens, length_field or body.length_field)
        prompts, constraint = await self.encoder.encode_chat(served, body, new_tokens)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        formatter.starts_message = not body.continue_final_message
        if body.may_truncate:
            formatter.report["dropped_turns"] = prompts.num_dropped
        if body.return_token_ids:
            formatter.report["prompt_token_ids"] = prompts.ids[0]
        encoded = EncodedRequest(served, body, prompts, new_tokens, logprobs, formatter, constraint=constraint)
        return await self._answer(request, encoded)

    async def tokenize(self, body: TokenizeRequest) -> TokenizeResponse:
        """The token ids of a text or of a conversation."""
        served = self._served(body.model)
        if body.messages is not None:
            check_can_chat(served)
        ids = await self.encoder.tokenize(served, body)
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
        answers = self.engine.submit(encoded.served, self.encoder.jobs(encoded))
        return await answer(request, encoded, answers, self.metrics)

    def _served(self, name: str | None) -> ServedModel:
        models = self.engine.models
        if name is None:
            return next(iter(models.values()))
        if name not in models:
            message = f"unknown model {name!r}{did_you_mean(name, models)}; expected one of {', '.join(models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return models[name]

    def _card(self, served: ServedModel) -> ModelCard:
        defaults = self.encoder.defaults
        return ModelCard(
            id=served.name,
            created=served.created,
            context_window=served.context,
            context_length=served.context,
            supports_chat=served.is_chat,
            defaults=DefaultSettings(
                max_tokens=min(defaults.max_length, self.server.max_tokens, served.context),
                temperature=defaults.temperature,
                top_k=defaults.top_k,
                top_p=defaults.top_p,
                min_p=defaults.min_p,
                repetition_penalty=defaults.repetition_penalty,
            ),
        )


def check_can_chat(served: ServedModel) -> None:
    if not served.is_chat:
        message = f"{served.name} is a base model, not trained on conversations; use /v1/completions"
        raise ApiError(400, message, param="model", code="no_chat_model")


def check_ending(body: ChatCompletionRequest) -> None:
    if body.ends_with_answer and not body.continue_final_message:
        message = "the last message is from the assistant; expected one from the user, or continue_final_message: true"
        raise ApiError(400, message, param="messages")
