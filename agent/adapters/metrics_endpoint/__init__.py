"""Serves the agent's metrics and health over HTTP, and writes the metrics to a text file.

Uploads never depend on it. A failure is logged once, and tried again each minute.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.adapters.metrics_endpoint.exposition import CONTENT_TYPE, Exporter, replace_textfile
from agent.adapters.metrics_endpoint.http_server import HttpServer, Page
from agent.model.metrics import MetricValues
from agent.model.printable import printable

_log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Serves /metrics and /healthz, and keeps the text file up to date.

    One thread calls ``tend``. Another one may call ``stop`` at any time. The pages are made in the
    threads of the HTTP server.
    """

    def __init__(
        self,
        listen: str,
        textfile: Path | None,
        take: Callable[[], MetricValues],
        faults: Callable[[], list[str]],
    ) -> None:
        """Make the endpoint; it serves and writes from the first :meth:`tend` on.

        Args:
            listen: The setting metrics.listen, "HOST:PORT"; "" for no server.
            textfile: The setting metrics.textfile; None for no text file.
            take: Measures the metrics now. Called from any thread.
            faults: Returns what is wrong with the agent now. Called from any thread.
        """
        self._listen = listen
        self._textfile = textfile
        self._exporter = Exporter(take)
        self._faults = faults
        self._server: HttpServer | None = None
        # For each setting that can't be used now, the reason that is in the log already.
        self._logged_failures: dict[str, str] = {}
        self._stopped = False
        self._lock = threading.Lock()

    def tend(self) -> None:
        """Start the server where it does not run, and replace the text file.

        To be called each minute.
        """
        if self._listen and not self._stopped:
            self._try("metrics.listen", self._listen, self._serve)
        if self._textfile is not None and not self._stopped:
            self._try("metrics.textfile", str(self._textfile), self._write)

    def stop(self) -> None:
        """Stop the server, and delete the text file.

        Values in a file that is not written any more would look as if they were still true.
        """
        with self._lock:
            self._stopped = True
        if self._server is not None:
            self._server.close()
        if self._textfile is not None:
            with contextlib.suppress(OSError):
                self._textfile.unlink()

    def _serve(self) -> None:
        if self._server is not None:
            if self._server.alive:
                return
            # A server whose thread has ended still has the port.
            self._server.close()
        server = HttpServer(self._listen, {"/metrics": self._metrics, "/healthz": self._health})
        with self._lock:
            if not self._stopped:
                self._server = server
        if self._server is not server:
            # The endpoint was stopped in the meantime. The next one needs the port.
            server.close()
            return
        _log.info(
            "serving /metrics and /healthz on %s", self._listen, extra={"event": "metrics_served"}
        )

    def _write(self) -> None:
        assert self._textfile is not None  # noqa: S101 - tend() has checked it
        replace_textfile(self._textfile, self._exporter.text())
        # The endpoint may have been stopped while the file was written.
        if self._stopped:
            self._textfile.unlink(missing_ok=True)

    def _metrics(self) -> Page:
        return Page(self._exporter.text(), content_type=CONTENT_TYPE)

    def _health(self) -> Page:
        faults = self._faults()
        if faults:
            return Page("".join(f"{printable(fault)}\n" for fault in faults).encode(), 503)
        return Page(b"ok\n")

    def _try(self, setting: str, value: str, act: Callable[[], None]) -> None:
        """Call ``act``, and log when the setting can't be used, and when it can be used again."""
        try:
            act()
        except OSError as error:
            reason = error.strerror or str(error)
            if self._logged_failures.get(setting) != reason:
                _log.error(
                    "%s = %s can't be used: %s; it is tried again each minute",
                    setting,
                    value,
                    reason,
                    extra={"event": "metrics_failed"},
                )
            self._logged_failures[setting] = reason
        else:
            if self._logged_failures.pop(setting, None):
                _log.info(
                    "%s = %s can be used again", setting, value, extra={"event": "metrics_again"}
                )
