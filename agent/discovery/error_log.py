"""Logs unexpected errors over single files and folders, each of them once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

# The most paths that are named between one scan and the next. Otherwise an error that hits every
# file of a robot would fill the log, and the memory, with 100,000 of them.
_MOST_PATHS = 1000


class Mistakes:
    """Logs an unexpected error with the path it was met at, once for each path and error.

    Every scan comes to the same file again and would log the same error again. So the errors are
    remembered that were met since the scan before the last one. An error that was not met for so
    long is forgotten, and logged again when it comes back.

    Used only by the finder's thread.
    """

    def __init__(self) -> None:
        """Begin with no error known, so that each error is logged when it is first met."""
        self._met: dict[str, str] = {}
        self._met_before: dict[str, str] = {}

    @contextmanager
    def contained(self, path: str) -> Iterator[None]:
        """Log an error of the block as one met at ``path``, and go on after the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the search for recordings must go on
            self.log(path, error)

    def log(self, path: str, error: Exception) -> None:
        """Log ``error``, met at the file or folder ``path``, unless the log has it already."""
        text = repr(error)
        if len(self._met) < _MOST_PATHS:
            if self._is_new(path, text):
                _log.error(
                    "could not look at %s; the next scan tries again",
                    path,
                    exc_info=error,
                    extra={"event": "bug", "path": path},
                )
        elif self._is_new("", "too many"):
            _log.error(
                "could not look at more than %d files and folders; the others are not named",
                _MOST_PATHS,
                extra={"event": "bug"},
            )

    def scan_ended(self) -> None:
        """Forget what was not met since the scan before this one."""
        self._met, self._met_before = {}, self._met

    def _is_new(self, path: str, text: str) -> bool:
        """Note the error, and return whether it was not met at this path before."""
        known = self._met.get(path) == text or self._met_before.get(path) == text
        self._met[path] = text
        return not known
