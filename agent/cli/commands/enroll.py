"""`enroll`: get this robot's key from the platform, or another one in its place."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import click

from agent.adapters import logs
from agent.adapters.config import Settings, profile_path
from agent.adapters.device import device_id, own_id
from agent.adapters.gateway import GrpcGateway
from agent.adapters.profiles import ProfileFile
from agent.cli.options import printable, say, settings_of, with_config
from agent.cloud.enrol import Enrol, remedy
from agent.gate.gate import Delays
from agent.model.errors import AgentError, RefusedError, SetupError

_LASTING = (
    "profile_file",
    "DEVICE_ALREADY_INITIALIZED",
    "DEVICE_NOT_INITIALIZED",
    "INVALID_ARGUMENT",
    "profile_unwritable",
)


@click.command()
@with_config
@click.option(
    "--device-id",
    "named",
    default="",
    metavar="ID",
    help="Another device than this robot's own id.",
)
@click.option(
    "--rotate", is_flag=True, help="A new key for a device that has one; the old one stops working."
)
def enroll(config_path: Path | None, named: str, *, rotate: bool) -> None:
    """Get this robot's key from the platform; tried until it is there. An agent that starts does it by itself."""
    settings = settings_of(config_path)
    if settings.cloud.mode != "platform":
        raise SetupError(
            "cloud.mode is bucket: there is no platform to enrol at",
            hint="set cloud.mode to platform",
        )
    cloud = settings.cloud
    proxy = cloud.proxy.get_secret_value()
    redactor = logs.Redactor()
    gateway = GrpcGateway(
        timeout_seconds=cloud.request_timeout_seconds,
        ca_file=str(cloud.tls_ca_file or ""),
        proxy=proxy,
    )
    redactor.hide(*cloud.proxy.secrets(), lasting=True)
    profiles = ProfileFile(profile_path(settings, os.environ), settings.agent.state_dir)
    device = _device(settings, profiles, named)
    stop = threading.Event()

    def end(*_: object) -> None:
        """Never between the platform's answer and its writing: the call under way is cut, a write is finished."""
        stop.set()
        threading.Thread(
            target=gateway.close
        ).start()  # its lock may be held by what the signal interrupted

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    enrol = Enrol(gateway, profiles, redactor.hide)
    try:
        new = _until_done(enrol, device, settings, stop, redactor, rotate=rotate)
    finally:
        gateway.close()
    done = "has a new key; the old one has stopped working" if rotate else "is enrolled"
    say(
        f"device {device} {done}: {profiles.path}"
        if new
        else f"device {device} is enrolled already: {profiles.path}"
    )


def _device(settings: Settings, profiles: ProfileFile, named: str) -> str:
    """The device that is meant. Where the file has others, only one that is named."""
    known = profiles.load()
    if named:
        return own_id(named.strip(), "--device-id")
    device = device_id(settings.agent.device_id, settings.agent.state_dir)
    if known and device not in known:
        raise RefusedError(
            f"{profiles.path} has profiles of {', '.join(sorted(known))}, and this robot is {device}",
            hint="name the device that is meant by --device-id",
        )
    return device


def _until_done(
    enrol: Enrol,
    device: str,
    settings: Settings,
    stop: threading.Event,
    redactor: logs.Redactor,
    *,
    rotate: bool,
) -> bool:
    """Try until the key is kept; a line on standard error for each new reason why it is not."""
    retry = settings.retry
    delays = Delays(retry.base_seconds, retry.max_seconds, retry.jitter_seconds)
    attempts, told = 0, ""
    while not stop.is_set():
        try:
            return enrol.once(device, rotate=rotate)
        except AgentError as error:
            if stop.is_set():
                break
            if isinstance(error, RefusedError) or error.code in _LASTING:
                error.hint = remedy(error)
                raise
            why = error
        attempts += 1
        if why.message != told:
            told = why.message
            click.echo(
                printable(redactor.redact(f"not yet: {why.message}; tried again ({remedy(why)})")),
                err=True,
            )
        stop.wait(delays.after(attempts))
    raise AgentError(
        f"stopped: device {device} {'has no new key' if rotate else 'is not enrolled'}"
    )
