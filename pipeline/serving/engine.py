"""Continuous batching: one thread steps the models, requests join at the next step and leave when they are done.

The event loop submits what a request asks for and reads its `Answers`; the thread never waits for a reader, and a
reader that goes away costs at most one more step.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.generation.batch import BatchGenerator, Decoder, TokenEvent
from pipeline.generation.settings import GenerationSettings
from utils.errors import PipelineError

if TYPE_CHECKING:
    from model import TransformerLM
    from tokenizer import WikipediaTokenizer


logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """As many requests wait as the server lets wait."""


class RequestTimeoutError(Exception):
    """A request took longer than the server allows."""


class EngineError(Exception):
    """The model failed in a step; the request cannot be answered, the server goes on."""


class ServedModel:
    """A model under its name, with the batch that its requests share."""

    def __init__(
        self,
        name: str,
        model: "TransformerLM",
        tokenizer: "WikipediaTokenizer",
        *,
        is_chat: bool,
        max_rows: int,
        decoder: Decoder | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.token_bytes = tokenizer.token_bytes()
        self.is_chat = is_chat
        self.context: int = model.config.context_length
        self.vocab_size: int = model.config.vocab_size
        # No text with more characters than this fits the context: each token stands for one at least.
        self.max_characters = self.context * max(map(len, self.token_bytes))
        self.created = int(time.time())
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Job] = {}
        self._new_batch = lambda: BatchGenerator(model, tokenizer, max_rows=max_rows, decoder=decoder)
        self.max_rows = max_rows
        self.batch = self._new_batch()

    def start_anew(self) -> None:
        """An empty batch, after a step that failed half-way."""
        self.running.clear()
        self.batch = self._new_batch()


@dataclass(eq=False)
class Job:
    """One answer being written: what was asked, and where its events go."""

    index: int
    prompt_ids: Sequence[int]
    settings: GenerationSettings
    answers: "Answers"
    is_cancelled: bool = False


class Answers:
    """The answers that one request asked for, as they are written. Belongs to the event loop that submitted them."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.jobs: list[Job] = []
        self._loop = asyncio.get_running_loop()
        self._outcomes: asyncio.Queue[tuple[int, TokenEvent | Exception]] = asyncio.Queue()

    def cancel(self) -> None:
        """Their reader has gone; the thread frees their places before its next step."""
        for job in self.jobs:
            job.is_cancelled = True

    def put(self, index: int, outcome: TokenEvent | Exception) -> None:
        """Called from the engine's thread."""
        self._loop.call_soon_threadsafe(self._outcomes.put_nowait, (index, outcome))

    async def __aiter__(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        """(number of the answer, its next event), until every answer has had its finish reason.

        Raises:
            RequestTimeoutError, EngineError, PipelineError: why there will be no more.
        """
        num_open = len(self.jobs)
        while num_open:
            index, outcome = await self._outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            yield index, outcome
            num_open -= outcome.finish_reason is not None


class Engine:
    """The thread. One for all models: they share the device, and in turn each makes one step."""

    def __init__(self, models: Sequence[ServedModel], *, max_waiting: int, timeout: float) -> None:
        self.models: Mapping[str, ServedModel] = {each.name: each for each in models}
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
        return sum(len(each.waiting) for each in self.models.values())

    @property
    def num_running(self) -> int:
        return sum(len(each.running) for each in self.models.values())

    def submit(
        self,
        served: ServedModel,
        requests: Sequence[tuple[Sequence[int], GenerationSettings]],
    ) -> Answers:
        """Queues the answers that one request asks for, all or none; called from the event loop.

        Args:
            requests: for each answer its prompt's ids and its settings.

        Raises:
            QueueFullError: so many would wait that the last would wait too long.
        """
        answers = Answers(deadline=time.monotonic() + self._timeout)
        answers.jobs = [Job(index, ids, settings, answers) for index, (ids, settings) in enumerate(requests)]
        with self._condition:
            self.check_room(served, len(answers.jobs))
            served.waiting.extend(answers.jobs)
            self._condition.notify()
        return answers

    def check_room(self, served: ServedModel, num_answers: int) -> None:
        """Raises QueueFullError if so many more could not be queued now."""
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
        """One step of one model: who leaves, who joins, a token for each."""
        outcomes = [*self._let_leave(served), *self._let_join(served)]
        if served.running:
            try:
                outcomes += self._step(served)
            except Exception as error:
                logger.exception("%s failed in a step", served.name)
                outcomes += [(job, EngineError(f"{type(error).__name__} in a step")) for job in served.running.values()]
                served.start_anew()
        for job, outcome in outcomes:
            job.answers.put(job.index, outcome)

    def _let_leave(self, served: ServedModel) -> list[tuple[Job, Exception]]:
        now = time.monotonic()
        late = []
        for row, job in list(served.running.items()):
            if job.is_cancelled or now > job.answers.deadline:
                served.batch.leave(row)
                del served.running[row]
                late += [] if job.is_cancelled else [(job, RequestTimeoutError())]
        return late

    def _let_join(self, served: ServedModel) -> list[tuple[Job, Exception]]:
        refused = []
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

    def _step(self, served: ServedModel) -> list[tuple[Job, TokenEvent]]:
        outcomes = []
        for event in served.batch.step():
            outcomes.append((served.running[event.row], event))
            if event.finish_reason:
                del served.running[event.row]
        return outcomes
