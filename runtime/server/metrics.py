"""What ``/metrics`` shows, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from memory.meter import read_memory
from runtime.server.reading import Collected
from runtime.server.served import ServedModel, ServedModels

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


class Metrics:
    """Counters of one server."""

    def __init__(self, models: ServedModels) -> None:
        self._registry = CollectorRegistry()
        self._models = models
        self.requests = self._counter("requests", "Requests by route and status", "route", "status")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts", "model")
        self._cached = self._counter("cached_prompt_tokens", "Tokens of prompts that were in the KV cache", "model")
        self._generated = self._counter("generated_tokens", "Tokens of answers", "model")
        self._drafted = self._counter("drafted_tokens", "Tokens that drafters proposed", "model")
        self._accepted = self._counter("accepted_tokens", "Proposed tokens that the target accepted", "model")
        self._first = Histogram(
            "pocketspec_first_token_seconds",
            "From the turn in the queue to the first token",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._step = Histogram(
            "pocketspec_step_seconds",
            "Mean step of an answer",
            ["model"],
            buckets=_STEP_SECONDS,
            registry=self._registry,
        )
        self._waiting = self._gauge("waiting_requests", "Requests in the queue", "model")
        self._running = self._gauge("running_requests", "Answers being given", "model")
        self._planned = self._gauge("planned_bytes", "Memory that the plan needs", "model")
        self._anonymous = self._gauge("anonymous_bytes", "Anonymous memory of the process")

    def count_answer(self, model: ServedModel, collected: Collected) -> None:
        """Counts an answer, as far as it came."""
        if collected.last is None:
            return
        stats, name = collected.last.stats, model.name
        self._prompt.labels(name).inc(stats.prompt_tokens)
        self._cached.labels(name).inc(stats.cached_tokens)
        self._generated.labels(name).inc(stats.tokens)
        self._drafted.labels(name).inc(stats.drafted)
        self._accepted.labels(name).inc(stats.accepted)
        self._first.labels(name).observe(stats.first_token_seconds)
        self._step.labels(name).observe(stats.step_seconds / stats.steps)

    def text(self) -> bytes:
        """All of them now."""
        for name, model in self._models.by_name.items():
            self._waiting.labels(name).set(len(model.worker.queue))
            self._running.labels(name).set(model.worker.is_busy)
            self._planned.labels(name).set(model.engine.plan.needed_bytes)
        memory = read_memory()
        self._anonymous.set(0 if memory is None else memory.anonymous_bytes)
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pocketspec_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"pocketspec_{name}", text, labels, registry=self._registry)
