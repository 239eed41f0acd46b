"""`demo` and `devcloud`: the agent's job on one machine, on the embedded cloud."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.app import App
from agent.cli.options import print_json
from agent.edges import logs
from agent.edges.config import load
from agent.edges.history import to_json
from agent.model.nouns import SyncLog

if TYPE_CHECKING:
    from rich.console import Console

    from agent.devcloud.cloud import DevCloud

_MIB = 1024 * 1024
_LINK = 24 * _MIB  # bytes a second, so that there is something to see
_PATIENCE = 50.0  # seconds until the demo gives up


@click.command()
@click.option("--mebibytes", type=click.IntRange(1, 4096), default=48, show_default=True, help="Size to record.")
@click.option("--seconds", type=click.FloatRange(0.1, 30), default=4.0, show_default=True, help="Time to record.")
def demo(mebibytes: int, seconds: float) -> None:
    """Record an MCAP, watch it reach a bucket, and compare the bytes; all on this machine."""
    from agent.devcloud.cloud import DevCloud  # noqa: PLC0415 - an extra: only these commands need it

    with (
        tempfile.TemporaryDirectory(prefix="keystone-demo-") as folder,
        DevCloud(Path(folder), bandwidth=_LINK) as cloud,
    ):
        click.echo(f"embedded cloud: {cloud.store_url}, bucket {cloud.bucket}; everything is in {folder}")
        environ = {name: text for name, text in os.environ.items() if not name.startswith("KEYSTONE_AGENT_")}
        settings = load(cloud.config_path, environ).settings
        redactor = logs.start("INFO", settings.log.dir, settings.log.max_mib, settings.log.files, console=False)
        app = App(settings, environ, hide=redactor.hide)
        file = settings.watch.roots[0] / "line-3" / "pick-and-place.mcap"
        file.parent.mkdir(parents=True)
        recorder = _recorder(file, seconds, mebibytes)
        app.start()
        try:
            log = _watch(app, file, recorder, mebibytes * _MIB)
        finally:
            app.stop()
            recorder.kill()
            recorder.wait()
            logs.stop()
        _prove(cloud, file, log)


def _recorder(file: Path, seconds: float, mebibytes: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agent.devcloud.recorder", str(file)]
    return subprocess.Popen([*command, "--seconds", str(seconds), "--mebibytes", str(mebibytes)])  # noqa: S603 - our own


def _watch(app: App, file: Path, recorder: subprocess.Popen[bytes], expected: int) -> SyncLog:
    """Show the recording grow, then its upload, until the history says how it ended."""
    from rich.console import Console  # noqa: PLC0415 - only for those who watch
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    pause = threading.Event()
    waited = 0.0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        recording = progress.add_task("recording (not taken: it has no footer yet)", total=expected)
        uploading = progress.add_task("uploading", total=None)
        said: set[str] = set()
        while waited < _PATIENCE:
            finished = recorder.poll() is not None
            _say(console, said, "recorded, closed" if finished else "recording: not taken, it has no footer yet")
            size = file.stat().st_size if file.exists() else 0
            progress.update(recording, completed=size, total=size if finished else max(expected, size))
            for claim in app.dispatch.in_flight():
                _say(console, said, "uploading")
                progress.update(uploading, total=claim.log.file_size, completed=claim.transfer.sent)
            ended = [log for log in app.history.at_path(file) if not log.open]
            if ended:
                progress.update(uploading, total=ended[0].file_size, completed=ended[0].file_size)
                return ended[0]
            waited += 0.1
            pause.wait(0.1)
    closed = app.gate.closed()
    raise click.ClickException(
        f"not finished after {_PATIENCE:.0f} s: {closed.reason if closed else 'no reason known'}"
    )


def _say(console: Console, said: set[str], line: str) -> None:
    """A plain line for each step, once, where the output is no terminal."""
    if line not in said and not console.is_terminal:
        said.add(line)
        click.echo(line)


def _prove(cloud: DevCloud, file: Path, log: SyncLog) -> None:
    if not log.synced:
        raise click.ClickException(f"the recording was not stored: {log.error}")
    stored = hashlib.sha256(cloud.read_object(log.object_key)).hexdigest()
    recorded = hashlib.sha256(file.read_bytes()).hexdigest()
    click.echo(f"object    {cloud.store_url}/{log.bucket}/{log.object_key}")
    click.echo(f"recorded  sha256 {recorded}, {log.file_size} bytes")
    click.echo(f"stored    sha256 {stored}: {'the same bytes' if stored == recorded else 'OTHER BYTES'}")
    click.echo("history")
    print_json(to_json(log))
    if stored != recorded:
        raise click.ClickException("the object differs from the recording")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Where state and objects live. [default: a new one]")
@click.option("--store", default="auto", show_default=True, help="auto, rclone, minio, or the URL of an S3 endpoint.")
@click.option("--tls", is_flag=True, help="Speak TLS, with a CA made for this cloud.")
@click.option("--lease-seconds", type=click.FloatRange(1), default=3600, show_default=True)
@click.option("--token-seconds", type=click.FloatRange(1), default=3600, show_default=True)
@click.option("--part-size-mib", type=click.IntRange(5), default=8, show_default=True)
@click.option("--bandwidth", type=click.IntRange(0), default=0, show_default=True, help="Bytes per second, 0 = all.")
@click.option("--device", "devices", multiple=True, default=("robot-1",), show_default=True)
@click.option("--gateway-port", type=click.IntRange(0, 65535), default=0, help="[default: any that is free]")
@click.option("--store-port", type=click.IntRange(0, 65535), default=0, help="[default: any that is free]")
def devcloud(
    *,
    folder: Path | None,
    store: str,
    tls: bool,
    lease_seconds: float,
    token_seconds: float,
    part_size_mib: int,
    bandwidth: int,
    devices: tuple[str, ...],
    gateway_port: int,
    store_port: int,
) -> None:
    """Run the embedded cloud and print how to point an agent at it; Ctrl-C ends it."""
    from agent.devcloud.cloud import DevCloud  # noqa: PLC0415 - an extra: only these commands need it

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    cloud = DevCloud(
        (folder or Path(tempfile.mkdtemp(prefix="keystone-devcloud-"))).absolute(),
        store=store,
        tls=tls,
        lease_seconds=lease_seconds,
        token_seconds=token_seconds,
        part_size_bytes=part_size_mib * _MIB,
        bandwidth=bandwidth,
        devices=devices,
        gateway_port=gateway_port,
        store_port=store_port,
    )
    with cloud:
        click.echo(f"# gateway {cloud.gateway_url}, store {cloud.store_url}, bucket {cloud.bucket}")
        click.echo(f"# keystone-agent run --config {cloud.config_path}")
        click.echo(cloud.config_path.read_text(encoding="utf-8"))
        sys.stdout.flush()
        stop.wait()
