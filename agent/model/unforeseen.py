"""Translates exceptions that no adapter expects: a shortage on this robot, or an unexpected error.

An adapter translates the errors that its library is known to raise. All other exceptions of the
library pass through :func:`foreign` in the adapter. Every exception that ends an attempt passes
through :func:`understood`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agent.model.errors import WHOLE, AgentError, CloudError, GateClosedError, HistoryFullError

# For each shortage its code in the error table, and the message for people.
SHORTAGES: Mapping[str, str] = {
    "out_of_threads": "this robot can start no more threads",
    "out_of_memory": "this robot is out of memory",
    "out_of_descriptors": "this robot is out of file descriptors",
    "out_of_space": "this robot's disk is full",
}

_BY_ERRNO: Mapping[int, str] = {
    errno.EMFILE: "out_of_descriptors",
    errno.ENFILE: "out_of_descriptors",
    errno.ENOMEM: "out_of_memory",
    errno.ENOSPC: "out_of_space",
    errno.EDQUOT: "out_of_space",
}

# Python raises a bare RuntimeError if the system refuses another thread. Only its text tells it
# from other errors.
_NO_THREAD = "can't start new thread"


def shortage(error: BaseException) -> str:
    """Return the code of the shortage that ``error`` comes from, or "" if it comes from none.

    Libraries wrap such errors in their own. So all errors that led to ``error`` are examined.
    """
    return next(filter(None, map(_shortage_code, _chain(error))), "")


def shortage_error(call: str, code: str) -> CloudError:
    """Return the error of ``call`` for the shortage with this ``code``."""
    return CloudError(call, code, SHORTAGES[code])


def understood(error: Exception) -> AgentError:
    """Return what ended an attempt as an error of the agent.

    A shortage on this robot becomes an error without a call, however it was wrapped. Any other
    error of the agent is returned as it is. Any other exception becomes "io_error" if the system
    raised it, otherwise "bug". The cause of a new error is ``error``.
    """
    if isinstance(error, (GateClosedError, HistoryFullError)):
        return error
    if code := shortage(error):
        known = shortage_error(WHOLE, code)
    elif isinstance(error, AgentError):
        return error
    else:
        code = "io_error" if isinstance(error, OSError) else "bug"
        known = CloudError(WHOLE, code, f"{type(error).__name__}: {error}")
    known.__cause__ = error
    return known


@contextmanager
def foreign(call: str) -> Iterator[None]:
    """Turn an unexpected exception of the block into a CloudError of ``call``.

    Errors of the agent pass as they are, and so do errors of the operating system that are no
    shortage. The message has no text of the exception, because the text may quote a key. The
    exception is the cause of the error, so the log shows its traceback, without keys.
    """
    try:
        yield
    except AgentError:
        raise
    except Exception as error:
        if code := shortage(error):
            raise shortage_error(call, code) from error
        if isinstance(error, OSError):
            raise
        raise CloudError(call, "unexpected_answer", type(error).__name__) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and all errors that led to it: arguments, ``reason``, cause and context."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            inner = (*each.args, getattr(each, "reason", None), each.__cause__, each.__context__)
            waiting += [one for one in inner if isinstance(one, BaseException)]


def _shortage_code(error: BaseException) -> str:
    """Return the code of the shortage that ``error`` itself names, or ""."""
    if isinstance(error, CloudError):
        return error.code if error.means("shortage") else ""
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "")
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return "out_of_threads"
    return ""
