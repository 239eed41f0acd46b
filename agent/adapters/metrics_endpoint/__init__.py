"""Serves the measures and writes them down. Uploads never depend on it: what fails is said once and tried again."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.adapters.metrics_endpoint.exposition import CONTENT_TYPE, Exporter, replace_textfile
from agent.adapters.metrics_endpoint.http_server import HttpServer, Page
from agent.model.metrics import MetricValues

_log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Nothing is served or written before it is tended for the first time."""

    def __init__(
        self,
        listen: str,
        textfile: Path | None,
        take: Callable[[], MetricValues],
        faults: Callable[[], list[str]],
    ) -> None:
        """``listen`` and ``textfile`` are the settings of that name; ``faults`` is what is wrong with the agent now."""
        self._listen = listen
        self._textfile = textfile
        self._exporter = Exporter(take)
        self._faults = faults
        self._pages: HttpServer | None = None
        self._told: dict[str, str] = {}  # setting -> what is wrong with it
        self._stopped = False
        self._lock = threading.Lock()

    def tend(self) -> None:
        """Serve if nobody does, and replace the textfile. To be called each minute."""
        if self._listen and not self._stopped:
            self._try("metrics.listen", self._listen, self._serve)
        if self._textfile is not None and not self._stopped:
            self._try("metrics.textfile", str(self._textfile), self._write)

    def stop(self) -> None:
        """Serve no longer. The textfile goes, too: what it says would seem to hold for ever."""
        with self._lock:
            self._stopped = True
        if self._pages is not None:
            self._pages.close()
        if self._textfile is not None:
            with contextlib.suppress(OSError):
                self._textfile.unlink()

    def _serve(self) -> None:
        if self._pages is not None:
            if self._pages.alive:
                return
            self._pages.close()  # it still has the port
        pages = HttpServer(self._listen, {"/metrics": self._metrics, "/healthz": self._health})
        with self._lock:
            if not self._stopped:
                self._pages = pages
        if self._pages is not pages:
            pages.close()  # or it would keep the port from whoever serves next
            return
        _log.info(
            "serves /metrics and /healthz on %s", self._listen, extra={"event": "metrics_served"}
        )

    def _write(self) -> None:
        assert self._textfile is not None  # noqa: S101 - tend has looked
        replace_textfile(self._textfile, self._exporter.text())
        if self._stopped:
            self._textfile.unlink(missing_ok=True)

    def _metrics(self) -> Page:
        return Page(self._exporter.text(), content_type=CONTENT_TYPE)

    def _health(self) -> Page:
        faults = self._faults()
        return (
            Page("".join(f"{fault}\n" for fault in faults).encode(), 503)
            if faults
            else Page(b"ok\n")
        )

    def _try(self, key: str, value: str, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            why = error.strerror or str(error)
            if self._told.get(key) != why:
                text = "%s = %s can't be used: %s; it is tried again each minute"
                _log.error(text, key, value, why, extra={"event": "metrics_failed"})
            self._told[key] = why
        else:
            if self._told.pop(key, None):
                _log.info("%s = %s can be used again", key, value, extra={"event": "metrics_again"})
