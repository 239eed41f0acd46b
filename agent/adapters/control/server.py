"""The agent's end of the socket: each call becomes one of an Operator, each AgentError an answer."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from agent.adapters.control.lazy_listener import LazyListener
from agent.adapters.control.socket_path import ERROR, KEEPALIVE, Place, packed, text
from agent.model.errors import AgentError, RefusedError
from agent.model.ports import Operator
from agent.model.threads import Threads
from agent.model.values import Answer
from agent.pb import control_pb2

_log = logging.getLogger(__name__)

_WATCHERS = 8  # streams at once
_THREADS = _WATCHERS + 4  # a stream has one for as long as it lasts
_SHORTEST, _LONGEST = 0.1, 3600.0  # seconds between two answers of a stream
_SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"]
_OPTIONS = (
    *KEEPALIVE,
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)  # a command line has 6 MiB at most


class _Answering(Threads):
    """The threads that answer calls.

    The library's server ends for good where its pool raises. A call for which there is no thread gets no answer
    instead, and its caller hangs up.
    """

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """As the base does, but what can't be begun is a future that has failed."""
        try:
            return super().submit(call, *arguments, **named)
        except (RuntimeError, MemoryError) as error:
            _log.warning("a command gets no answer: %s", error, extra={"event": "control_failed"})
            unanswered: Future[Any] = Future()
            unanswered.set_exception(error)
            return unanswered


class ControlServer:
    """Serves an Operator on STATE_DIR/control.sock."""

    def __init__(self, state_dir: Path, operator: Operator) -> None:
        """Nothing is served before :meth:`start`."""
        self._state_dir = state_dir
        self.operator = operator  # another one may be set at any time
        self._lock = (
            threading.RLock()
        )  # a stream that nobody reads any more may end in any thread, at any time
        self._idle = threading.Condition(self._lock)
        self._calls = 0
        self._watchers: set[threading.Event] = set()  # each one ends its stream
        self._stopping = False
        self._pool = _Answering("control", most=_THREADS)
        self._place: Place | None = None
        self._door: LazyListener | None = None
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listen, in the place of an agent that was killed. Raises OSError."""
        self._place = Place(self._state_dir)
        self._door = LazyListener(
            self._place.path, self._place.inner, start=self._begin, stop=self._end
        )
        try:
            Path(self._place.inner).parent.mkdir(mode=0o700, exist_ok=True)
            self._door.open(self._state_dir.stat())
        except OSError as error:
            raise OSError(
                f"cannot listen on {self._state_dir}/control.sock: {error.strerror}"
            ) from error

    def _begin(self) -> None:
        """Somebody is at the door. Raises OSError, and RuntimeError where there are no threads."""
        with self._lock:
            if self._stopping or self._place is None:
                raise OSError("the agent stops")
            _try_a_thread()
            server = grpc.server(self._pool, options=_OPTIONS)
            server.add_generic_rpc_handlers([self._handlers()])
            try:
                server.add_insecure_port(f"unix:{self._place.inner}")
            except RuntimeError as error:
                raise OSError(f"cannot listen on {self._place.inner}") from error
            server.start()
            self._server = server

    def _end(self) -> None:
        """Nobody is there any more."""
        with self._lock:
            server = None if self._stopping else self._server
            self._server = self._server if self._stopping else None
        if server is not None:
            server.stop(None)  # with a time to wait the library would need another thread

    def stop(self, seconds: float) -> bool:
        """Take no more calls, end the streams at once, and let the calls under way end within ``seconds``.

        Tells whether all have ended. May be called without or after a start that failed.
        """
        with self._lock:
            self._stopping = True
            for ended in tuple(self._watchers):
                ended.set()
        if self._door is not None:
            self._door.close()
        if self._server is not None:
            try:
                self._server.stop(seconds).wait()
            except RuntimeError:  # it has no thread in which it could wait
                self._server.stop(None)
        if self._place is not None:
            with suppress(OSError):
                Path(self._place.inner).parent.rmdir()
            self._place.close()
            self._place = None
        with self._idle:  # gRPC is done with a call before its thread is
            return self._idle.wait_for(lambda: self._calls == 0, seconds)

    def _handlers(self) -> grpc.GenericRpcHandler:
        acts: dict[str, Callable[[Any], Any]] = {
            "Resync": self._resync,
            "First": lambda request: _told(self.operator.first(_targets(request))),
            "Pause": lambda _: self.operator.pause(),
            "Resume": lambda _: self.operator.resume(),
            "Rescan": lambda _: self.operator.rescan(),
            "ListAssets": lambda _: control_pb2.ListAssetsReply(assets=self.operator.assets()),
            "SetAsset": lambda request: self.operator.set_asset(request.robot, request.asset),
            "UnsetAsset": lambda request: self.operator.unset_asset(request.robot),
        }
        handlers = {}
        for method in _SERVICE.methods:
            reply = GetMessageClass(method.output_type)
            codec = {
                "request_deserializer": GetMessageClass(method.input_type).FromString,
                "response_serializer": reply.SerializeToString,
            }
            handlers[method.name] = (
                grpc.unary_stream_rpc_method_handler(self._status, **codec)
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler(
                    functools.partial(self._answer, acts[method.name], reply), **codec
                )
            )
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    def _answer(
        self,
        act: Callable[[Any], Any],
        reply: Callable[[], Any],
        request: Any,
        context: grpc.ServicerContext,
    ) -> Any:
        with self._call(context):
            return act(request) or reply()

    def _status(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        ended = threading.Event()
        with self._call(context), self._watching(ended):
            if not context.add_callback(ended.set):
                return  # it has hung up already
            while True:
                # Escaped: it may name files whose names are no UTF-8.
                reply = control_pb2.StatusReply(document=json.dumps(self.operator.status()))
                try:
                    yield reply
                except GeneratorExit:
                    # On Python 3.10 an exception that leaves a context manager made of a generator
                    # stays in a reference cycle, and with it gRPC's call and its idle threads.
                    return
                every = request.interval_seconds
                if not every > 0 or ended.wait(min(max(every, _SHORTEST), _LONGEST)):
                    return

    def _resync(self, request: Any) -> control_pb2.AskReply:
        if request.failed:
            return _told(self.operator.resync_failed(request.error_code, request.reason))
        return _told(self.operator.resync(_targets(request), request.reason))

    @contextmanager
    def _watching(self, ended: threading.Event) -> Iterator[None]:
        """``ended`` is set when the agent stops."""
        with self._lock:
            if len(self._watchers) >= _WATCHERS:
                raise AgentError(
                    f"{_WATCHERS} others watch this agent already",
                    code="watchers",
                    hint="end one of them",
                )
            self._watchers.add(ended)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.discard(ended)

    @contextmanager
    def _call(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Count the call, and turn what it raises into its answer."""
        with self._lock:
            if self._stopping:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the agent stops")
            self._calls += 1
        try:
            yield
        except AgentError as error:
            refused = isinstance(error, RefusedError)
            status = (
                grpc.StatusCode.INVALID_ARGUMENT if refused else grpc.StatusCode.FAILED_PRECONDITION
            )
            _abort(context, status, error.code, error.message, error.hint)
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            message = f"{where}{error.strerror or error}"
            _abort(context, grpc.StatusCode.FAILED_PRECONDITION, "os", message, "")
        except Exception:  # noqa: BLE001 - one call that fails must not be the last one
            _log.exception("a call of the operator failed", extra={"event": "bug"})
            _abort(
                context,
                grpc.StatusCode.INTERNAL,
                "bug",
                "the agent failed to do that",
                "look into its log",
            )
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()


def _try_a_thread() -> None:
    """Raise RuntimeError where no thread can be started.

    The library's server hangs for good once it has begun to start and does not get its thread, so that is found out
    before.
    """
    thread = threading.Thread(target=lambda: None, name="control")
    thread.start()
    thread.join()


def _abort(
    context: grpc.ServicerContext, status: grpc.StatusCode, code: str, message: str, hint: str
) -> NoReturn:
    context.set_trailing_metadata([(ERROR, packed(code, message, hint))])
    context.abort(status, text(message))
    raise AssertionError  # it has raised


def _targets(request: Any) -> list[str]:
    return [os.fsdecode(target) for target in request.targets]


def _told(answers: Sequence[Answer]) -> control_pb2.AskReply:
    reply = control_pb2.AskReply()
    for answer in answers:
        reply.items.add(
            target=os.fsencode(answer.target),
            episode_id=text(answer.episode_id),
            status=f"ASK_STATUS_{answer.status.upper()}",
            message=text(answer.message),
        )
    return reply
