"""Continuous batching: one thread steps the models; requests join at the next step and leave when they are done.

The event loop submits requests and reads their `Answers`. The thread never waits for a reader, and a reader that
disconnects costs at most one more step.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.formats.chat_template import TEMPLATE_NAME
from pipeline.generation.batch_generator import BatchGenerator, Decoder
from pipeline.generation.prefix_cache import PrefixCache
from pipeline.generation.row import TokenEvent
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError

if TYPE_CHECKING:
    from model import TransformerLM
    from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer


logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """The queue is full: `server.max_waiting` answers are waiting."""


class RequestTimeoutError(Exception):
    """A request took longer than the server allows."""


class EngineError(Exception):
    """The model failed in a step. Its requests cannot be answered, but the server keeps running."""


class ServedModel:
    """A named model and the batch shared by its requests."""

    def __init__(
        self,
        name: str,
        model: "TransformerLM",
        tokenizer: "WikipediaTokenizer",
        *,
        is_chat: bool,
        template: str = TEMPLATE_NAME,
        max_rows: int,
        prefix_cache_bytes: int = 0,
        decoder: Decoder | None = None,
    ) -> None:
        self.name = name
        self._model = model
        self._decoder = decoder
        self.tokenizer = tokenizer
        self.token_bytes = tokenizer.token_bytes()
        self.is_chat = is_chat
        self.template = template
        self.context: int = model.config.context_length
        self.vocab_size: int = model.config.vocab_size
        # Longer texts cannot fit the context, because no token has more characters than bytes.
        self.max_characters = self.context * max(map(len, self.token_bytes))
        self.created = int(time.time())
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Job] = {}
        self.max_rows = max_rows
        self.prefix_cache = PrefixCache(prefix_cache_bytes)
        self.batch = self._new_batch()

    def reset(self) -> None:
        """Start over with an empty batch after a step that failed halfway."""
        self.running.clear()
        self.batch = self._new_batch()

    def _new_batch(self) -> BatchGenerator:
        return BatchGenerator(
            self._model,
            self.tokenizer,
            max_rows=self.max_rows,
            decoder=self._decoder,
            prefix_cache=self.prefix_cache if self.prefix_cache.max_bytes else None,
        )


@dataclass(eq=False)
class Job:
    """A running answer: its prompt, its settings, and where its events go."""

    index: int
    prompt_ids: Sequence[int]
    settings: GenerationSettings
    answers: "Answers"
    is_cancelled: bool = False
    num_cached: int = 0  # prompt tokens that the prefix cache had


Outcome = tuple[Job, TokenEvent | Exception]  # the next event of an answer, or the error that ends it


class Answers:
    """The answers of one request as they are generated. Belongs to the event loop that submitted it."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.jobs: list[Job] = []
        self.loop = asyncio.get_running_loop()
        self._outcomes: asyncio.Queue[tuple[int, TokenEvent | Exception]] = asyncio.Queue()

    def cancel(self) -> None:
        """Cancel these answers; the thread frees their slots before its next step."""
        for job in self.jobs:
            job.is_cancelled = True

    @property
    def num_cached(self) -> int:
        """The prompt tokens that the prefix cache had. A prompt with several answers counts once."""
        first_jobs = {id(job.prompt_ids): job for job in reversed(self.jobs)}
        return sum(job.num_cached for job in first_jobs.values())

    def put(self, index: int, outcome: TokenEvent | Exception) -> None:
        """Called from the event loop."""
        self._outcomes.put_nowait((index, outcome))

    async def __aiter__(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        """Yield (index of an answer, its next event) until all answers have a finish reason.

        Raises:
            RequestTimeoutError, EngineError, PipelineError: the request cannot be finished.
        """
        num_open = len(self.jobs)
        while num_open:
            index, outcome = await self._outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            self.jobs[index].num_cached += outcome.num_cached
            yield index, outcome
            if outcome.finish_reason is not None:
                num_open -= 1


class Engine:
    """The thread that steps the models, taking turns because they share the device."""

    def __init__(self, models: Sequence[ServedModel], *, max_waiting: int, timeout: float) -> None:
        self.models: Mapping[str, ServedModel] = {served.name: served for served in models}
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._condition = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._thread.join()

    @property
    def num_waiting(self) -> int:
        return sum(len(served.waiting) for served in self.models.values())

    @property
    def num_running(self) -> int:
        return sum(len(served.running) for served in self.models.values())

    def submit(
        self,
        served: ServedModel,
        requests: Sequence[tuple[Sequence[int], GenerationSettings]],
    ) -> Answers:
        """Queue all answers of a request, or none; call this from the event loop.

        Args:
            requests: the prompt ids and the settings of each answer.

        Raises:
            QueueFullError: more answers would be waiting than `server.max_waiting` allows.
        """
        answers = Answers(deadline=time.monotonic() + self._timeout)
        answers.jobs = [Job(index, ids, settings, answers) for index, (ids, settings) in enumerate(requests)]
        with self._condition:
            self.check_room(served, len(answers.jobs))
            served.waiting.extend(answers.jobs)
            self._condition.notify()
        return answers

    def check_room(self, served: ServedModel, num_answers: int) -> None:
        """Raise QueueFullError if `num_answers` more cannot be queued now."""
        free = served.max_rows - len(served.running)
        if len(served.waiting) + num_answers > self._max_waiting + free:
            raise QueueFullError

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._is_stopping or self.num_waiting or self.num_running)
                if self._is_stopping:
                    return
            for served in self.models.values():
                self._advance(served)

    def _advance(self, served: ServedModel) -> None:
        """Run one step of one model: requests leave, requests join, and every running one gets a token."""
        outcomes = self._let_leave(served) + self._let_join(served)
        if served.running:
            try:
                outcomes += self._step(served)
            except Exception as error:
                logger.exception("%s failed in a step", served.name)
                outcomes += [(job, EngineError(f"{type(error).__name__} in a step")) for job in served.running.values()]
                served.reset()
        _deliver(outcomes)

    def _let_leave(self, served: ServedModel) -> list[Outcome]:
        now = time.monotonic()
        late: list[Outcome] = []
        for row, job in list(served.running.items()):
            if job.is_cancelled or now > job.answers.deadline:
                served.batch.leave(row)
                del served.running[row]
                if not job.is_cancelled:
                    late.append((job, RequestTimeoutError()))
        return late

    def _let_join(self, served: ServedModel) -> list[Outcome]:
        refused: list[Outcome] = []
        while served.waiting and len(served.running) < served.max_rows:
            with self._condition:
                job = served.waiting.popleft()
            if job.is_cancelled:
                continue
            if time.monotonic() > job.answers.deadline:
                refused.append((job, RequestTimeoutError()))
                continue
            try:
                served.running[served.batch.join(job.prompt_ids, job.settings)] = job
            except PipelineError as error:
                refused.append((job, error))
        return refused

    def _step(self, served: ServedModel) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for event in served.batch.step():
            outcomes.append((served.running[event.row], event.error or event))
            if event.finish_reason:
                del served.running[event.row]
        return outcomes


def _deliver(outcomes: Sequence[Outcome]) -> None:
    """Hand a step's outcomes to the event loops of their requests. Waking a loop is a system call, so once for all."""

    def put(group: Sequence[Outcome]) -> None:
        for job, outcome in group:
            job.answers.put(job.index, outcome)

    for loop in {job.answers.loop for job, _ in outcomes}:
        loop.call_soon_threadsafe(put, [(job, outcome) for job, outcome in outcomes if job.answers.loop is loop])
