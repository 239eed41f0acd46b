"""A command's end of the socket: an Operator that asks the running agent."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from agent.adapters.control.socket_path import ERROR, KEEPALIVE, Place, text, unpacked
from agent.model.errors import AgentError, NotRunningError, RefusedError
from agent.model.values import Answer, Reply
from agent.pb import control_pb2
from agent.pb.control_pb2_grpc import ControlStub

_GLANCE, _SOON, _LATER = (
    5.0,
    15.0,
    600.0,
)  # seconds: for a look, a small deed, and what may read all recordings
_OPTIONS = (*KEEPALIVE, ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))
_REPLIES: Mapping[int, Reply] = {1: "accepted", 2: "already_queued", 3: "not_found", 4: "rejected"}


class Control:
    """Implements ``ports.Operator``; whoever makes one closes it.

    Every method raises NotRunningError when the agent stops, RefusedError when it refuses what was asked, and
    AgentError when it can't do it.
    """

    def __init__(self, state_dir: Path) -> None:
        """Connect. Raises NotRunningError when no agent listens, AgentError when this user may not ask it."""
        try:
            self._place = Place(state_dir)
        except OSError as error:
            raise _unreachable(state_dir, error) from error
        try:
            with socket.socket(socket.AF_UNIX) as probe:  # gRPC would not tell why it can't connect
                probe.settimeout(_SOON)
                probe.connect(self._place.path)
        except OSError as error:
            self._place.close()
            raise _unreachable(state_dir, error) from error
        self._channel = grpc.insecure_channel(f"unix:{self._place.path}", _OPTIONS)
        self._stub = ControlStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
        self._place.close()

    def status(self) -> Mapping[str, Any]:
        """What the agent says of itself."""
        return next(self._watch(0, _GLANCE))

    def watch(self, seconds: float) -> Iterator[Mapping[str, Any]]:
        """What the agent says of itself, now and then every ``seconds`` (above 0), until it stops: NotRunningError."""
        return self._watch(seconds, None)

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these again."""
        request = control_pb2.ResyncRequest(targets=map(os.fsencode, targets), reason=text(reason))
        return _answers(self._ask(self._stub.Resync, request, _LATER))

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again what failed."""
        request = control_pb2.ResyncRequest(failed=True, error_code=text(code), reason=text(reason))
        return _answers(self._ask(self._stub.Resync, request, _LATER))

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Put these ahead."""
        request = control_pb2.FirstRequest(targets=map(os.fsencode, targets))
        return _answers(self._ask(self._stub.First, request, _LATER))

    def pause(self) -> None:
        """Start no new part."""
        self._ask(self._stub.Pause, control_pb2.PauseRequest())

    def resume(self) -> None:
        """Go on."""
        self._ask(self._stub.Resume, control_pb2.ResumeRequest())

    def rescan(self) -> None:
        """Look at everything now."""
        self._ask(self._stub.Rescan, control_pb2.RescanRequest())

    def assets(self) -> Mapping[str, str]:
        """Robot id to asset id."""
        return dict(self._ask(self._stub.ListAssets, control_pb2.ListAssetsRequest()).assets)

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind a robot."""
        self._ask(
            self._stub.SetAsset, control_pb2.SetAssetRequest(robot=text(robot), asset=text(asset))
        )

    def unset_asset(self, robot: str) -> None:
        """Unbind a robot."""
        self._ask(self._stub.UnsetAsset, control_pb2.UnsetAssetRequest(robot=text(robot)))

    def _ask(self, method: Callable[..., Any], request: Any, seconds: float = _SOON) -> Any:
        try:
            return method(request, timeout=seconds)
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
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ConnectionError)):
        return NotRunningError(f"no agent runs in {state_dir}")
    if isinstance(error, PermissionError):
        return AgentError(
            f"this user may not ask the agent in {state_dir}",
            code="not_permitted",
            hint="join the group keystone-agent, or use sudo",
        )
    return AgentError(
        f"the agent in {state_dir} does not answer: {error}",
        code="no_answer",
        hint="restart the agent",
    )


def _translated(error: grpc.RpcError) -> AgentError:
    """What became of a call that gave no answer."""
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
    told = dict(error.trailing_metadata() or ()).get(ERROR, b"")
    try:
        return kind(**unpacked(told))
    except (ValueError, TypeError, KeyError):
        return kind(
            f"the agent failed: {error.details()}", code="no_answer", hint="look into its log"
        )
