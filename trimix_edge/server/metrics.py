"""What ``/metrics`` tells, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server: a registry of its own, so that several can share a process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "trimix_requests", "Answered requests.", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "trimix_request_seconds",
            "Time to the end of an answer.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self.first_token = Histogram(
            "trimix_time_to_first_token_seconds",
            "Time from a request to its first token.",
            buckets=_SECONDS,
            registry=own,
        )
        self.prompt_tokens = Counter(
            "trimix_prompt_tokens", "Tokens of prompts that were evaluated.", registry=own
        )
        self.cached_tokens = Counter(
            "trimix_prompt_cached_tokens", "Tokens of prompts that were known.", registry=own
        )
        self.generated_tokens = Counter(
            "trimix_generated_tokens", "Generated tokens.", registry=own
        )
        self.cancelled = Counter(
            "trimix_cancelled", "Requests whose client left before the end.", registry=own
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a gauge that is read when asked for."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)
