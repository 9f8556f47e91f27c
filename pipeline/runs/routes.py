"""The routes of the runs page, all below /runs.

page = runs_page(config, has_chat=True)    # for server.py, which adds the routes to its own
app = create_app(config, api_key=None)     # the page alone, for runs.py
"""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.configuration import Config
from pipeline.quickstart_hint import or_quickstart
from pipeline.runs.differences import differences, from_defaults
from pipeline.runs.number_table import AXES, NumberTable
from pipeline.runs.run_log import RunLog
from pipeline.runs.run_store import RunStore
from pipeline.runs.scores import Scores
from pipeline.web.access import AllowedHosts, ApiKey, host_names
from pipeline.web.errors import ApiError, error_response
from pipeline.web.extra_page import ExtraPage
from pipeline.web.static_files import PackagedFiles
from pipeline.web.theme import SHARED_FILES
from utils.terminal import short_path

PAGE_FOLDER = Path(__file__).with_name("page")
MAX_CHOSEN = 12  # runs in one request
MAX_POINTS = 4000
MAX_SMOOTH = 100_000
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_SIGNS_OF_LIFE = 15.0
DATA_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def runs_page(config: Config, *, has_chat: bool = False) -> ExtraPage:
    """The page and what it asks for. `has_chat`: the same server has the chat page at /, so link to it."""
    routes = RunsRoutes(config, has_chat=has_chat)
    return ExtraPage("runs", "/runs", routes.all(), routes.stop)


def create_app(config: Config, *, api_key: str | None = None) -> tuple[Starlette, ExtraPage]:
    """The page as an application of its own."""
    page = runs_page(config)
    middleware = [Middleware(AllowedHosts, names=host_names(config.runs.host, config.server.allowed_hosts))]
    if api_key:
        middleware.append(Middleware(ApiKey, key=api_key))
    home = Route("/", lambda request: RedirectResponse(page.path))
    return Starlette(routes=[home, *page.routes], middleware=middleware), page


class RunsRoutes:
    """One handler method per path."""

    def __init__(self, config: Config, *, has_chat: bool = False) -> None:
        self.config = config
        self.has_chat = has_chat
        self.store = RunStore(config.paths)
        self.scores = Scores(config.paths.benchmark_dir)
        self.files = PackagedFiles(PAGE_FOLDER, *SHARED_FILES)
        self._stopping = threading.Event()

    def all(self) -> list[Route]:
        return [
            Route("/runs", self.files.page("index.html")),
            Route("/runs/static/{name:path}", self.files.serve),
            Route("/runs/api/runs", self.runs),
            Route("/runs/api/events", self.events),
            Route("/runs/api/series", self.series),
            Route("/runs/api/details", self.details),
        ]

    def stop(self) -> None:
        """End the streams of events, so that the server can shut down."""
        self._stopping.set()

    async def runs(self, request: Request) -> Response:
        """The list of runs, and where they were looked for."""
        await run_in_threadpool(self.store.refresh, max_age=SECONDS_BETWEEN_LOOKS)
        paths = self.config.paths
        empty = f"python3 main.py train{or_quickstart(paths.checkpoint_dir)}" if not self.store.summaries() else ""
        return _json(
            {
                "runs": list(self.store.summaries().values()),
                "log_folder": short_path(self.store.log_folder),
                "checkpoint_folder": short_path(paths.checkpoint_dir),
                "hint": empty.partition("; ")[2],
                "chat": self.has_chat,
            }
        )

    async def events(self, request: Request) -> Response:
        """Server-sent events: the runs that changed since the event before, and those that are gone."""
        headers = {**DATA_HEADERS, "X-Accel-Buffering": "no"}
        return StreamingResponse(self.changes(), media_type="text/event-stream", headers=headers)

    async def changes(self) -> AsyncIterator[str]:
        """The text of the events."""
        sent: dict[str, dict[str, Any]] = {}
        silence = 0.0
        yield "retry: 2000\n\n"
        while not self._stopping.is_set():
            await run_in_threadpool(self.store.refresh, max_age=SECONDS_BETWEEN_LOOKS)
            found = self.store.summaries()
            changed = [facts for name, facts in found.items() if sent.get(name) != facts]
            gone = [name for name in sent if name not in found]
            sent = dict(found)
            if changed or gone:
                silence = 0.0
                yield f"event: runs\ndata: {_text({'changed': changed, 'gone': gone})}\n\n"
            elif silence >= SECONDS_BETWEEN_SIGNS_OF_LIFE:
                silence = 0.0
                yield ": still here\n\n"
            for _ in range(4):
                if not self._stopping.is_set():
                    await asyncio.sleep(SECONDS_BETWEEN_LOOKS / 4)
            silence += SECONDS_BETWEEN_LOOKS

    async def series(self, request: Request) -> Response:
        """The curves of one run: all metrics, thinned out to what a screen can show."""
        query = request.query_params
        axis = query.get("x", "step")
        if axis not in AXES:
            return error_response(ApiError(400, f"x is {axis!r}; expected one of {', '.join(AXES)}", param="x"))
        try:
            most = int(_number(query, "points", 1000, 2, MAX_POINTS))
            smooth = int(_number(query, "smooth", 1, 1, MAX_SMOOTH))
            span = (_number(query, "from", -math.inf), _number(query, "to", math.inf))
            run, log = await self._open(query.get("run", ""))
        except ApiError as error:
            return error_response(error)
        content = await run_in_threadpool(_curves, log, axis=axis, most=most, smooth=smooth, span=span)
        return _json({"run": run, "x": axis, **content})

    async def details(self, request: Request) -> Response:
        """Samples, checkpoints with scores, and the differences between the configurations of the chosen runs."""
        names = list(dict.fromkeys(request.query_params.getlist("run")))[:MAX_CHOSEN]
        try:
            opened = [await self._open(name) for name in names]
        except ApiError as error:
            return error_response(error)
        return _json(await run_in_threadpool(self._details, opened))

    async def _open(self, name: str) -> tuple[str, RunLog | None]:
        """The run and its log.

        Raises:
            ApiError: there is no such run.
        """
        await run_in_threadpool(self.store.refresh, max_age=SECONDS_BETWEEN_LOOKS)
        if name not in self.store.summaries():
            raise ApiError(404, f"there is no run {name!r}", param="run", code="run_not_found")
        return name, await run_in_threadpool(self.store.log, name)

    def _details(self, opened: list[tuple[str, RunLog | None]]) -> dict[str, Any]:
        configs = [log.config if log else {} for _, log in opened]
        if len(opened) == 1:
            is_tuning = self.store.summaries()[opened[0][0]]["kind"] == "fine-tuning"
            rows = from_defaults(configs[0], Config().to_dict(), is_tuning=is_tuning)
            compared = {"columns": ["default", opened[0][0]], "rows": rows}
        else:
            compared = {"columns": [name for name, _ in opened], "rows": differences(configs)}
        return {"runs": [self._details_of(name, log) for name, log in opened], "config": compared}

    def _details_of(self, name: str, log: RunLog | None) -> dict[str, Any]:
        samples = log.shown_samples() if log else {}
        return {
            "name": name,
            "samples": [{"prompt": prompt, "texts": texts} for prompt, texts in samples.items()],
            "checkpoints": [
                {"name": file.name, "bytes": file.num_bytes, "modified": file.modified}
                for file in self.store.checkpoints(name)
            ],
            "scores": self.scores.of(self.store.folder_of(name)),
        }


def _curves(log: RunLog | None, *, axis: str, most: int, smooth: int, span: tuple[float, float]) -> dict[str, Any]:
    """``{"rows", "marks", "training": {metric: {x, y, smooth}}, "validation": …}``."""
    if log is None:
        return {"rows": 0, "marks": [], "training": {}, "validation": {}}
    with log.lock:
        return _locked_curves(log, axis=axis, most=most, smooth=smooth, span=span)


def _locked_curves(log: RunLog, *, axis: str, most: int, smooth: int, span: tuple[float, float]) -> dict[str, Any]:
    low, high = span

    def table(numbers: NumberTable, window: int) -> dict[str, Any]:
        curves = {}
        for name in list(numbers.columns):
            x, y = numbers.points(name, axis=axis, most=most, low=low, high=high)
            curves[name] = {"x": x.tolist(), "y": y.tolist()}
            if window > 1:
                x, y = numbers.points(name, axis=axis, most=most, smooth=window, low=low, high=high)
                curves[name]["smooth"] = {"x": x.tolist(), "y": y.tolist()}
        return {name: curve for name, curve in curves.items() if curve["x"]}

    marks = [{**mark, "x": mark[axis]} for mark in log.shown_marks() if low <= mark[axis] <= high]
    return {
        "rows": len(log.training),
        "marks": marks,
        "training": table(log.training, smooth),
        "validation": table(log.validation, 1),
    }


def _number(
    query: Mapping[str, str], name: str, default: float, low: float = -math.inf, high: float = math.inf
) -> float:
    """A number in the request, moved into its bounds."""
    text = query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ApiError(400, f"{name} is {text!r}; expected a number", param=name)
    return min(max(value, low), high)


def _json(content: Mapping[str, Any]) -> Response:
    return Response(_text(content), media_type="application/json", headers=DATA_HEADERS)


def _text(content: Mapping[str, Any]) -> str:
    """ASCII, because a log can contain halves of characters, and without NaN, which is not JSON."""
    return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
