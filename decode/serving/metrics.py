"""The server's metrics, for Prometheus. No name and no label holds a transcript, a path or an address."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "slam_asr_server_"
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300, 1200)
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One set of metrics, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}requests", "Transcriptions asked for, by status code.", ["code"], registry=own
        )
        self.audio_seconds = Counter(f"{PREFIX}audio_seconds", "Audio that was decoded.", registry=own)
        self.active = Gauge(f"{PREFIX}active_requests", "Transcriptions accepted and not yet answered.", registry=own)
        self.waiting = Gauge(f"{PREFIX}waiting_windows", "Windows read and not yet decoded.", registry=own)
        self.batch_windows = Histogram(
            f"{PREFIX}batch_windows", "Windows decoded together.", buckets=WINDOWS, registry=own
        )
        self.seconds = Histogram(
            f"{PREFIX}request_seconds",
            "From a request's first byte to the end of its answer.",
            buckets=SECONDS,
            registry=own,
        )
        self.queued = Histogram(
            f"{PREFIX}queue_seconds", "From the end of an upload to its first batch.", buckets=SECONDS, registry=own
        )

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
