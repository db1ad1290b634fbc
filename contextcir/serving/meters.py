"""Count requests and seconds for Prometheus. Names and labels hold no texts and no ids."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    exposition,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Meters:
    """Counters of one application, so that several in a process do not mix."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "contextcir_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "contextcir_request_seconds", "Time of requests by route", ["route"], buckets=SECONDS, registry=registry
        )
        self._stages = Histogram(
            "contextcir_search_stage_seconds",
            "Time of searches: reading the form and the picture, waiting, the forward pass, the search itself",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "contextcir_batch_size",
            "Searches of a forward pass",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self._queue = Gauge("contextcir_queue_length", "Searches that wait or run", registry=registry)
        self._images = Gauge("contextcir_gallery_images", "Images that can be found", registry=registry)
        self._generation = Gauge("contextcir_gallery_generation", "Generation of the gallery", registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stages(self, **seconds: float) -> None:
        """Count the stages of a search."""
        for stage, value in seconds.items():
            self._stages.labels(stage).observe(value)

    def batch(self, size: int) -> None:
        """Count a forward pass."""
        self._batch.observe(size)

    def text(self, *, queue: int, images: int, generation: int) -> tuple[bytes, str]:
        """All counts in the format of Prometheus, and its content type."""
        self._queue.set(queue)
        self._images.set(images)
        self._generation.set(generation)
        return generate_latest(self.registry), exposition.CONTENT_TYPE_LATEST
