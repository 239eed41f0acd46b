"""The agent's end of the control socket.

Each call becomes a call of an Operator, and each AgentError becomes the call's answer.
"""

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
from agent.adapters.control.socket_path import ERROR, KEEPALIVE, SocketPath, packed, text
from agent.model.errors import AgentError, RefusedError
from agent.model.ports import Operator
from agent.model.threads import Threads
from agent.model.values import Answer
from agent.pb import control_pb2

_log = logging.getLogger(__name__)

# How many commands may watch the status at the same time.
_MAX_WATCHERS = 8

# A command that watches needs a thread for as long as it lasts. The others share four.
_MAX_THREADS = _MAX_WATCHERS + 4

# The limits of the time between two documents of a command that watches.
_SHORTEST_INTERVAL_SECONDS = 0.1
_LONGEST_INTERVAL_SECONDS = 3600.0

# The most bytes of a request. A command line has 6 MiB at most.
_REQUEST_MAX_BYTES = 16 * 1024 * 1024

_SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"]
_OPTIONS = (*KEEPALIVE, ("grpc.max_receive_message_length", _REQUEST_MAX_BYTES))


class _CallThreads(Threads):
    """The threads that answer calls.

    gRPC's server ends for good where its pool raises. Here a call for which there is no thread gets
    no answer instead, and its connection ends.

    Used by the threads of gRPC's server.
    """

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Run the call in another thread; return a failed future where there is none."""
        try:
            return super().submit(call, *arguments, **named)
        except (RuntimeError, MemoryError) as error:
            _log.warning("a command gets no answer: %s", error, extra={"event": "control_failed"})
            unanswered: Future[Any] = Future()
            unanswered.set_exception(error)
            return unanswered


class ControlServer:
    """Serves an Operator on STATE_DIR/control.sock.

    One thread calls ``start`` and ``stop``. Any thread may set ``operator``. The other methods run
    in the threads of gRPC's server and of the listener.
    """

    def __init__(self, state_dir: Path, operator: Operator) -> None:
        """Make the server; :meth:`start` makes it listen.

        Args:
            state_dir: The folder of the socket. The folder's owner and group may connect.
            operator: Does what the commands request.
        """
        self._state_dir = state_dir
        # Another operator may be set at any time.
        self.operator = operator
        # A stream that no command reads any more may end in any thread, at any time, also in one
        # that holds the lock.
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._calls = 0
        # For each command that watches, an event that ends its stream.
        self._watchers: set[threading.Event] = set()
        self._stopping = False
        self._threads = _CallThreads("control", most=_MAX_THREADS)
        self._socket_path: SocketPath | None = None
        self._listener: LazyListener | None = None
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listen. A socket that an agent left behind when it was killed is replaced.

        Raises:
            OSError: The socket can't be made.
        """
        self._socket_path = SocketPath(self._state_dir)
        self._listener = LazyListener(
            self._socket_path.path,
            self._socket_path.grpc_path,
            start=self._start_server,
            stop=self._stop_server,
        )
        try:
            Path(self._socket_path.grpc_path).parent.mkdir(mode=0o700, exist_ok=True)
            self._listener.open(self._state_dir.stat())
        except OSError as error:
            raise OSError(
                f"cannot listen on {self._state_dir}/control.sock: {error.strerror}"
            ) from error

    def _start_server(self) -> None:
        """Start gRPC's server for the first connection.

        Raises:
            OSError: The server can't listen, or the agent stops.
            RuntimeError: The system refuses a thread.
        """
        with self._lock:
            if self._stopping or self._socket_path is None:
                raise OSError("the agent stops")
            _check_threads_available()
            server = grpc.server(self._threads, options=_OPTIONS)
            server.add_generic_rpc_handlers([self._handlers()])
            try:
                server.add_insecure_port(f"unix:{self._socket_path.grpc_path}")
            except RuntimeError as error:
                raise OSError(f"cannot listen on {self._socket_path.grpc_path}") from error
            server.start()
            self._server = server

    def _stop_server(self) -> None:
        """Stop gRPC's server after the last connection; at the end :meth:`stop` does it."""
        with self._lock:
            if self._stopping:
                return
            server = self._server
            self._server = None
        if server is not None:
            # With a time to wait, the library would need another thread.
            server.stop(None)

    def stop(self, seconds: float) -> bool:
        """Accept no more calls, end the streams at once, and wait for the calls under way.

        May be called without a start, or after a start that failed.

        Args:
            seconds: How long to wait.

        Returns:
            Whether all calls have ended.
        """
        with self._lock:
            self._stopping = True
            for ended in tuple(self._watchers):
                ended.set()
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            try:
                self._server.stop(seconds).wait()
            except RuntimeError:
                # The system refuses the thread in which the library would wait.
                self._server.stop(None)
        if self._socket_path is not None:
            with suppress(OSError):
                Path(self._socket_path.grpc_path).parent.rmdir()
            self._socket_path.close()
            self._socket_path = None
        # gRPC regards a call as ended before the call's thread has ended.
        with self._idle:
            return self._idle.wait_for(lambda: self._calls == 0, seconds)

    def _handlers(self) -> grpc.GenericRpcHandler:
        """Return what gRPC needs to call this class for each method of control.proto."""
        actions: dict[str, Callable[[Any], Any]] = {
            "Resync": self._resync,
            "First": lambda request: _ask_reply(self.operator.first(_targets(request))),
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
            if method.server_streaming:
                handler = grpc.unary_stream_rpc_method_handler(self._status, **codec)
            else:
                answer = functools.partial(self._answer, actions[method.name], reply)
                handler = grpc.unary_unary_rpc_method_handler(answer, **codec)
            handlers[method.name] = handler
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    def _answer(
        self,
        action: Callable[[Any], Any],
        empty_reply: Callable[[], Any],
        request: Any,
        context: grpc.ServicerContext,
    ) -> Any:
        """Answer a call that has one answer, which is empty where the action returns nothing."""
        with self._call(context):
            return action(request) or empty_reply()

    def _status(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Yield the status once, or again and again where the request has an interval."""
        ended = threading.Event()
        with self._call(context), self._watching(ended):
            # The command may have closed the connection already.
            if not context.add_callback(ended.set):
                return
            while True:
                # json escapes what is no ASCII, so names of files that are no UTF-8 can be sent.
                reply = control_pb2.StatusReply(document=json.dumps(self.operator.status()))
                try:
                    yield reply
                except GeneratorExit:
                    # On Python 3.10 an exception that leaves a context manager made of a generator
                    # stays in a reference cycle, and with it gRPC's call and its idle threads.
                    return
                # NaN is not above 0 either.
                if not request.interval_seconds > 0:
                    return
                interval = max(request.interval_seconds, _SHORTEST_INTERVAL_SECONDS)
                if ended.wait(min(interval, _LONGEST_INTERVAL_SECONDS)):
                    return

    def _resync(self, request: Any) -> control_pb2.AskReply:
        if request.failed:
            return _ask_reply(self.operator.resync_failed(request.error_code, request.reason))
        return _ask_reply(self.operator.resync(_targets(request), request.reason))

    @contextmanager
    def _watching(self, ended: threading.Event) -> Iterator[None]:
        """Have ``ended`` set when the agent stops during the block.

        Raises:
            AgentError: Too many commands watch the status already.
        """
        with self._lock:
            if len(self._watchers) >= _MAX_WATCHERS:
                raise AgentError(
                    f"{_MAX_WATCHERS} others watch this agent already",
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
        """Count a call, and turn what it raises into its answer."""
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
        except Exception:  # noqa: BLE001 - after a call that fails, the next ones are answered
            _log.exception("a command failed by a mistake in the agent", extra={"event": "bug"})
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


def _check_threads_available() -> None:
    """Raise RuntimeError where no thread can be started.

    gRPC's server hangs for good where it has begun to start and does not get its thread. So the
    system is asked for a thread before.
    """
    thread = threading.Thread(target=lambda: None, name="control")
    thread.start()
    thread.join()


def _abort(
    context: grpc.ServicerContext, status: grpc.StatusCode, code: str, message: str, hint: str
) -> NoReturn:
    """End a call with the fields of an AgentError."""
    context.set_trailing_metadata([(ERROR, packed(code, message, hint))])
    context.abort(status, text(message))
    # abort() always raises, but its type does not say so.
    raise AssertionError


def _targets(request: Any) -> list[str]:
    return [os.fsdecode(target) for target in request.targets]


def _ask_reply(answers: Sequence[Answer]) -> control_pb2.AskReply:
    reply = control_pb2.AskReply()
    for answer in answers:
        reply.items.add(
            target=os.fsencode(answer.target),
            episode_id=text(answer.episode_id),
            status=f"ASK_STATUS_{answer.status.upper()}",
            message=text(answer.message),
        )
    return reply
