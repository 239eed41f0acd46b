"""A command's end of the control socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from agent.adapters.control.socket_path import ERROR, KEEPALIVE, SocketPath, text, unpacked
from agent.model.errors import AgentError, NotRunningError, RefusedError
from agent.model.values import Answer, Reply
from agent.pb import control_pb2
from agent.pb.control_pb2_grpc import ControlStub

# How long the agent's status may take.
_STATUS_SECONDS = 5.0

# How long a small change may take, such as a pause.
_CHANGE_SECONDS = 15.0

# How long a request may take for which the agent may have to read all recordings.
_RECORDINGS_SECONDS = 600.0

# The answers of the agent may have any size, and a proxy is never used. Without a pool of its own,
# a new client would share the connection of an earlier one in this process, and fail with it.
_OPTIONS = (
    *KEEPALIVE,
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

# The numbers of AskStatus in control.proto.
_REPLIES: Mapping[int, Reply] = {1: "accepted", 2: "already_queued", 3: "not_found", 4: "rejected"}


class Control:
    """Implements ``ports.Operator`` by asking the running agent.

    Every method raises NotRunningError when the agent stops, RefusedError when the agent refuses
    the request, and AgentError when the agent can't do what was requested.

    May be used from any thread. The caller must close it.
    """

    def __init__(self, state_dir: Path) -> None:
        """Connect to the agent of a state folder.

        Raises:
            NotRunningError: No agent listens.
            AgentError: This user may not connect, or the agent does not answer.
        """
        try:
            self._socket_path = SocketPath(state_dir)
        except OSError as error:
            raise _unreachable(state_dir, error) from error
        try:
            # gRPC would not tell why it can't connect, so a plain connection finds out first.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_CHANGE_SECONDS)
                probe.connect(self._socket_path.path)
        except OSError as error:
            self._socket_path.close()
            raise _unreachable(state_dir, error) from error
        self._channel = grpc.insecure_channel(f"unix:{self._socket_path.path}", _OPTIONS)
        self._stub = ControlStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
        self._socket_path.close()

    def status(self) -> Mapping[str, Any]:
        """Return the agent's status document."""
        return next(self._watch(0, _STATUS_SECONDS))

    def watch(self, seconds: float) -> Iterator[Mapping[str, Any]]:
        """Yield the agent's status document now and then every ``seconds``, which is above 0.

        Raises:
            NotRunningError: The agent has stopped. The iteration ends in no other way by itself.
        """
        return self._watch(seconds, None)

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these recordings again.

        Args:
            targets: Absolute paths of files or folders, or episode ids.
            reason: Why, for the history.
        """
        request = control_pb2.ResyncRequest(targets=map(os.fsencode, targets), reason=text(reason))
        return _answers(self._request(self._stub.Resync, request, _RECORDINGS_SECONDS))

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again all recordings that failed.

        Args:
            code: Only those with this error code; "" for all.
            reason: Why, for the history.
        """
        request = control_pb2.ResyncRequest(failed=True, error_code=text(code), reason=text(reason))
        return _answers(self._request(self._stub.Resync, request, _RECORDINGS_SECONDS))

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Move these recordings to the front of the queue."""
        request = control_pb2.FirstRequest(targets=map(os.fsencode, targets))
        return _answers(self._request(self._stub.First, request, _RECORDINGS_SECONDS))

    def pause(self) -> None:
        """Start no new part until :meth:`resume`."""
        self._request(self._stub.Pause, control_pb2.PauseRequest())

    def resume(self) -> None:
        """End the pause."""
        self._request(self._stub.Resume, control_pb2.ResumeRequest())

    def rescan(self) -> None:
        """Scan all watched folders now."""
        self._request(self._stub.Rescan, control_pb2.RescanRequest())

    def assets(self) -> Mapping[str, str]:
        """Return the asset id of each robot id; "" where the robot is not bound."""
        reply = self._request(self._stub.ListAssets, control_pb2.ListAssetsRequest())
        return dict(reply.assets)

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind a robot to an asset."""
        request = control_pb2.SetAssetRequest(robot=text(robot), asset=text(asset))
        self._request(self._stub.SetAsset, request)

    def unset_asset(self, robot: str) -> None:
        """Unbind a robot from its asset."""
        request = control_pb2.UnsetAssetRequest(robot=text(robot))
        self._request(self._stub.UnsetAsset, request)

    def _request(
        self, method: Callable[..., Any], request: Any, timeout: float = _CHANGE_SECONDS
    ) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise _translated(error) from None

    def _watch(self, interval: float, timeout: float | None) -> Iterator[Mapping[str, Any]]:
        stream = self._stub.Status(
            control_pb2.StatusRequest(interval_seconds=interval), timeout=timeout
        )
        try:
            for reply in stream:
                yield json.loads(reply.document)
        except grpc.RpcError as error:
            raise _translated(error) from None
        finally:
            stream.cancel()
        if interval:
            raise NotRunningError("the agent has stopped")


def _answers(reply: Any) -> Sequence[Answer]:
    return [
        Answer(
            os.fsdecode(item.target),
            _REPLIES.get(item.status, "rejected"),
            item.message,
            item.episode_id,
        )
        for item in reply.items
    ]


def _unreachable(state_dir: Path, error: OSError) -> AgentError:
    """Return what it means that the socket can't be connected to."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ConnectionError)):
        return NotRunningError(f"no agent runs in {state_dir}")
    if isinstance(error, PermissionError):
        return AgentError(
            f"this user may not give commands to the agent in {state_dir}",
            code="not_permitted",
            hint="join the group keystone-agent, or use sudo",
        )
    return AgentError(
        f"the agent in {state_dir} does not answer: {error}",
        code="no_answer",
        hint="restart the agent",
    )


def _translated(error: grpc.RpcError) -> AgentError:
    """Return what the failure of a call means."""
    status = error.code()
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return NotRunningError("the agent has stopped")
    if status == grpc.StatusCode.UNIMPLEMENTED:
        return AgentError(
            "the running agent is too old for this", code="too_old", hint="restart the agent"
        )
    if status == grpc.StatusCode.DEADLINE_EXCEEDED:
        return AgentError(
            "the agent does not answer", code="no_answer", hint="look into its log, or restart it"
        )
    kind = RefusedError if status == grpc.StatusCode.INVALID_ARGUMENT else AgentError
    packed_error = dict(error.trailing_metadata() or ()).get(ERROR, b"")
    try:
        return kind(**unpacked(packed_error))
    except (ValueError, TypeError, KeyError):
        return kind(
            f"the agent failed: {error.details()}", code="no_answer", hint="look into its log"
        )
