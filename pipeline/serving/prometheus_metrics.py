"""The Prometheus metrics served at /metrics."""

from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from pipeline.serving.engine import Engine


class Metrics:
    """The counters of one server, in a separate registry so that two apps in a process do not collide."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: Engine) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.answers = Counter("llm_answers", "requests answered", ["model"], registry=registry)
        self.prompt_tokens = Counter("llm_prompt_tokens", "prompt tokens received", ["model"], registry=registry)
        self.cached_tokens = Counter(
            "llm_cached_prompt_tokens", "prompt tokens that the prefix cache had already", ["model"], registry=registry
        )
        self.tokens = Counter("llm_generated_tokens", "tokens generated", ["model"], registry=registry)
        running = Gauge("llm_running", "answers being written", registry=registry)
        running.set_function(lambda: engine.num_running)
        waiting = Gauge("llm_waiting", "answers waiting for a slot", registry=registry)
        waiting.set_function(lambda: engine.num_waiting)

        cached = Gauge("llm_prefix_cache_bytes", "memory of the prefix cache", ["model"], registry=registry)
        for name, served in engine.models.items():
            cached.labels(name).set_function(partial(getattr, served.prefix_cache, "num_bytes"))

    def count_answer(self, model: str, num_tokens: int, num_cached: int) -> None:
        self.answers.labels(model).inc()
        self.cached_tokens.labels(model).inc(num_cached)
        self.tokens.labels(model).inc(num_tokens)

    def text(self) -> bytes:
        return generate_latest(self._registry)
