"""The agent's metrics in the text format of Prometheus.

The library needs 14 MiB of memory, so this module is imported only where the metrics are served or
written to a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.model.metrics import MetricValues
from agent.model.printable import printable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "keystone_agent_"


class Exporter(Collector):
    """Writes all metrics of the agent, measured anew each time.

    May be used from any thread.
    """

    def __init__(self, take: Callable[[], MetricValues]) -> None:
        """Make the exporter; nothing is measured.

        Args:
            take: Measures all metrics now.
        """
        self._take = take
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the metrics in the text format, measured now."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, measured now. The library calls this."""
        now = self._take()
        yield _gauges(
            "recordings", "Documents of the history by status.", "state", now.recordings.items()
        )
        yield _gauge(
            "oldest_unsynced_seconds",
            "How long the oldest recording has waited that is in no bucket yet; 0 when none waits.",
            now.oldest_unsynced_seconds,
        )
        yield _gauge(
            "backlog_bytes",
            "Size of the recordings that wait or are being sent.",
            now.backlog_bytes,
        )
        yield CounterMetricFamily(
            _PREFIX + "uploaded_bytes",
            "Bytes of recordings handed to the network since the agent started, "
            "those sent twice included.",
            value=now.uploaded_bytes,
        )
        yield _counters(
            "uploads",
            "Attempts since the agent started, by how they ended.",
            "outcome",
            now.uploads.items(),
        )
        yield _counters(
            "errors",
            "Errors since the agent started. Each ended an attempt, except lease_lost: "
            "the upload goes on with a new lease.",
            "kind",
            now.errors.items(),
        )
        yield _gauges(
            "gate_closed",
            "1 with the reason for which nothing new is sent, else 0.",
            "reason",
            now.gate_closed.items(),
        )
        yield _gauge(
            "last_success_timestamp_seconds",
            "When a recording was completed last, in seconds since 1970; 0 when that is not known.",
            now.last_success,
        )
        yield _gauge(
            "disk_free_bytes",
            "Free space for the agent, on the disk that has least of it among those of the "
            "watched folders and of the state folder.",
            now.disk_free_bytes,
        )
        yield _gauge(
            "lease_remaining_seconds",
            "Until the first storage lease in use ends; "
            "absent while none with a known end is in use.",
            now.lease_remaining_seconds,
        )
        yield _gauge(
            "orphaned_uploads",
            "Uploads that were given up here and may still have parts in the bucket.",
            now.orphaned_uploads,
        )
        yield _gauge(
            "watcher_up",
            "1 while changes are noticed in every watched folder that exists, else 0.",
            now.watcher_up,
        )
        yield _gauge(
            "scan_seconds", "How long the last scan of the watched folders took.", now.scan_seconds
        )
        yield _gauges(
            "build_info", "1, with the version of the agent.", "version", [(now.version, 1)]
        )


def _gauge(name: str, about: str, value: float | None) -> Metric:
    """Return a gauge without a label; it is absent where ``value`` is None."""
    return GaugeMetricFamily(_PREFIX + name, about, value=value)


def _gauges(name: str, about: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a gauge with a value for each value of its label."""
    family = GaugeMetricFamily(_PREFIX + name, about, labels=[label])
    for label_value, value in values:
        family.add_metric([printable(label_value)], value)
    return family


def _counters(name: str, about: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a counter with a value for each value of its label."""
    family = CounterMetricFamily(_PREFIX + name, about, labels=[label])
    for label_value, value in values:
        family.add_metric([printable(label_value)], value)
    return family


def replace_textfile(path: Path, text: bytes) -> None:
    """Replace the file ``path`` as a whole; all users may read the new one.

    The new file is written under a name that node_exporter does not read, and then renamed. It need
    not survive a power loss, so it is not synced to the disk.

    Raises:
        OSError: The file can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # Other users may write to the folder, too. A pipe of theirs would block this thread, so only a
    # new file is opened.
    temporary.unlink(missing_ok=True)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
    )
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)
        file.write(text)
    temporary.replace(path)
