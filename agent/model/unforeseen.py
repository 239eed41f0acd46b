"""What an exception means that no adapter translates: a lack of something on this robot, or a surprise.

An adapter translates the errors that its library is known to raise. Whatever else leaves the library passes through
:func:`foreign` at the adapter's border, and whatever ends an attempt passes through :func:`understood`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agent.model.errors import WHOLE, AgentError, CloudError, GateClosedError, HistoryFullError

# The code of the error table for each lack, and what people read.
SHORTAGES: Mapping[str, str] = {
    "out_of_threads": "this robot can start no more threads",
    "out_of_memory": "this robot is out of memory",
    "out_of_descriptors": "this robot is out of file descriptors",
    "out_of_space": "this robot's disk is full",
}

# Codes of errors that nobody foresaw. Only a traceback tells what happened.
UNFORESEEN = frozenset({"bug", "unexpected_answer"})

_BY_ERRNO: Mapping[int, str] = {
    errno.EMFILE: "out_of_descriptors",
    errno.ENFILE: "out_of_descriptors",
    errno.ENOMEM: "out_of_memory",
    errno.ENOSPC: "out_of_space",
    errno.EDQUOT: "out_of_space",
}

# Python raises a bare RuntimeError where the system refuses another thread. Only its text tells it from others.
_NO_THREAD = "can't start new thread"


def shortage(error: BaseException, call: str) -> CloudError | None:
    """Return the error of ``call`` that says what this robot lacks; None where ``error`` comes from no lack.

    Libraries wrap such errors in their own, so everything that led to ``error`` is looked at, too.
    """
    for each in _behind(error):
        if code := _lacking(each):
            return CloudError(call, code, SHORTAGES[code])
    return None


def understood(error: Exception) -> AgentError:
    """Return what ended an attempt as an error of the agent: ``error`` itself, or what stands for it.

    A lack on this robot is taken for what it is, however it was wrapped, and has no call to blame. An exception that
    is no error of the agent becomes "io_error" where the system raised it, else "bug"; its cause is ``error``.
    """
    if isinstance(error, (GateClosedError, HistoryFullError)):
        return error
    known = shortage(error, WHOLE)
    if known is None:
        if isinstance(error, AgentError):
            return error
        code = "io_error" if isinstance(error, OSError) else "bug"
        known = CloudError(WHOLE, code, f"{type(error).__name__}: {error}")
    known.__cause__ = error
    return known


@contextmanager
def foreign(call: str) -> Iterator[None]:
    """Let an exception that nobody foresaw leave the block as a CloudError of ``call``.

    Errors of the agent pass as they are, and so do errors of the operating system that are no lack on this robot. The
    message holds no text of the exception, because that text may quote a key; the traceback is chained for the log,
    which takes keys out.
    """
    try:
        yield
    except AgentError:
        raise
    except Exception as error:
        lack = shortage(error, call)
        if lack is None and isinstance(error, OSError):
            raise
        raise lack or CloudError(call, "unexpected_answer", type(error).__name__) from error


def _behind(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that led to it, by argument, by ``reason``, as its cause or as its context."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            inner = (*each.args, getattr(each, "reason", None), each.__cause__, each.__context__)
            waiting += [one for one in inner if isinstance(one, BaseException)]


def _lacking(error: BaseException) -> str:
    """The code of what this robot lacks; "" where ``error`` by itself says nothing of the kind."""
    if isinstance(error, CloudError):
        return error.code if error.code in SHORTAGES else ""
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "")
    return "out_of_threads" if isinstance(error, RuntimeError) and _NO_THREAD in str(error) else ""
