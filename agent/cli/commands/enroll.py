"""`enroll`: gets this robot's key from the platform, or a new key in its place."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import click

from agent.adapters import logs
from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.adapters.device import device_id, own_id
from agent.adapters.gateway import GrpcGateway
from agent.adapters.profiles import ProfileFile
from agent.assembly.cloud_adapters import CloudAdapters
from agent.cli.options import print_line, settings_of, with_config
from agent.cloud.enrol import Enrol, remedy
from agent.gate.gate import Delays
from agent.model.errors import AgentError, RefusedError, SetupError
from agent.model.printable import printable


@click.command()
@with_config
@click.option(
    "--device-id",
    "given_id",
    default="",
    metavar="ID",
    help="Another device than this robot's own id.",
)
@click.option(
    "--rotate", is_flag=True, help="A new key for a device that has one; the old one stops working."
)
def enroll(config_path: Path | None, given_id: str, *, rotate: bool) -> None:
    """Get this robot's key from the platform; tried until that succeeds.

    An agent that starts does this by itself.
    """
    settings = settings_of(config_path)
    if settings.cloud.mode != "platform":
        raise SetupError(
            "cloud.mode is bucket: there is no platform to enrol at",
            hint="set cloud.mode to platform",
        )
    redactor = logs.Redactor()
    redactor.hide(*settings.cloud.proxy.secrets(), lasting=True)
    adapters = CloudAdapters(os.environ, RealClock(), redactor.hide, connections=1)
    gateway = adapters.gateway(settings)
    profiles = adapters.profiles(settings)
    device = _device(settings, profiles, given_id)
    stop = threading.Event()
    _stop_at_signals(stop, gateway)
    enrolment = _Enrolment(Enrol(gateway, profiles, redactor.hide), device, rotate=rotate)
    try:
        is_new = enrolment.run(settings, stop, redactor)
    finally:
        gateway.close()
    if not is_new:
        print_line(f"device {device} is enrolled already: {profiles.path}")
    elif rotate:
        print_line(
            f"device {device} has a new key; the old one has stopped working: {profiles.path}"
        )
    else:
        print_line(f"device {device} is enrolled: {profiles.path}")


def _stop_at_signals(stop: threading.Event, gateway: GrpcGateway) -> None:
    """Let SIGTERM and SIGINT set ``stop`` and cut the call to the platform that is under way.

    The process does not end at once: once the platform has answered, the key must still be
    written, because the platform gives out a key only once.
    """

    def on_signal(*_: object) -> None:
        stop.set()
        # The code that the signal interrupts may hold the gateway's lock, so that close() would
        # wait for ever on this thread.
        threading.Thread(target=gateway.close).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)


def _device(settings: Settings, profiles: ProfileFile, given_id: str) -> str:
    """Return the id of the device to enrol.

    Where the profile file already has other devices, the operator must name the device. Raises
    RefusedError where that is missing.
    """
    known = profiles.load()
    if given_id:
        return own_id(given_id.strip(), "--device-id")
    device = device_id(settings.agent.device_id, settings.agent.state_dir)
    if known and device not in known:
        names = ", ".join(sorted(known))
        raise RefusedError(
            f"{profiles.path} has profiles of {names}, and this robot is {device}",
            hint="name the device that is meant by --device-id",
        )
    return device


@dataclass(frozen=True, slots=True)
class _Enrolment:
    """The enrolment of one device, tried until it succeeds. Used by the main thread."""

    enrol: Enrol
    device: str
    rotate: bool

    def run(self, settings: Settings, stop: threading.Event, redactor: logs.Redactor) -> bool:
        """Try until the key is written, and return whether it is a new key.

        Each new reason for a failure is one line on standard error. Raises AgentError for an
        error that another try does not cure, and when ``stop`` is set.
        """
        retry = settings.retry
        delays = Delays(retry.base_seconds, retry.max_seconds, retry.jitter_seconds)
        attempts = 0
        printed = ""
        while not stop.is_set():
            try:
                return self.enrol.once(self.device, rotate=self.rotate)
            except AgentError as error:
                if stop.is_set():
                    break
                if isinstance(error, RefusedError) or error.means("enrolment_impossible"):
                    error.hint = remedy(error)
                    raise
                message = error.message
                advice = remedy(error)
            attempts += 1
            if message != printed:
                printed = message
                text = f"not yet: {message}; trying again ({advice})"
                click.echo(printable(redactor.redact(text)), err=True)
            stop.wait(delays.after(attempts))
        missing = "has no new key" if self.rotate else "is not enrolled"
        raise AgentError(f"stopped: device {self.device} {missing}")
