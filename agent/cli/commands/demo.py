"""`demo` and `devcloud`: the agent's job on one machine, on the embedded cloud."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.adapters import logs
from agent.adapters.config import load
from agent.adapters.history import to_json
from agent.assembly.app import App
from agent.cli.options import absolute, print_json
from agent.model.values import SyncLog

if TYPE_CHECKING:
    from rich.console import Console

    from agent.devcloud.cloud import DevCloud
    from agent.devcloud.servers import Child

_MIB = 1024 * 1024
_LINK = 24  # MiB a second, so that there is something to see
_PATIENCE = 50.0  # seconds until the demo gives up, beyond the time that recording and sending take


@click.command()
@click.option(
    "--mebibytes",
    type=click.IntRange(1, 1024),
    default=48,
    show_default=True,
    help="Size to record.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 30),
    default=4.0,
    show_default=True,
    help="Time to record.",
)
def demo(mebibytes: int, seconds: float) -> None:
    """Record an MCAP, watch it reach a bucket, and compare the bytes; all on this machine."""
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # a shell's background job inherits a deaf ear to the latter
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as ending:
        with _explained():
            # An extra: only these commands need it.
            from agent.devcloud import recorder, servers  # noqa: PLC0415
            from agent.devcloud.cloud import DevCloud  # noqa: PLC0415

            store = servers.choose("auto")
            folder = Path(
                ending.enter_context(tempfile.TemporaryDirectory(prefix="keystone-demo-"))
            )
            cloud = ending.enter_context(DevCloud(folder, store=store, bandwidth=_LINK * _MIB))
        click.echo(f"embedded cloud: {cloud.store_url}, bucket {cloud.bucket}")
        click.echo(f"everything is in {folder}, which is removed at the end")
        environ = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("KEYSTONE_AGENT_")
        }
        settings = load(cloud.config_path, environ).settings
        redactor = logs.start(
            "INFO", settings.log.dir, settings.log.max_mib, settings.log.files, console=False
        )
        ending.callback(logs.stop)
        app = App(settings, environ, hide=redactor.hide)
        app.start()
        ending.callback(app.stop)
        file = settings.watch.roots[0] / "line-3" / "pick-and-place.mcap"
        command = [sys.executable, "-m", recorder.__name__, str(file)]
        child = servers.Child(
            [*command, f"--seconds={seconds}", f"--mebibytes={mebibytes}"], folder / "recorder.log"
        )
        ending.callback(child.stop)
        log = _watch(
            app, file, child, mebibytes * _MIB, _PATIENCE + seconds + 3 * mebibytes / _LINK
        )
        _prove(cloud, file, log)


@contextmanager
def _explained() -> Iterator[None]:
    """What keeps the embedded cloud from starting, in one line."""
    from agent.devcloud.servers import ServerError  # noqa: PLC0415 - an extra

    try:
        yield
    except ImportError as error:
        message = f"{(error.name or '').partition('.')[0]} is not installed: pip install 'keystone-agent[devcloud]'"
        raise click.ClickException(message) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(
            f"the embedded cloud can't start: {where}{error.strerror or error}"
        ) from error
    except ServerError as error:
        raise click.ClickException(f"the embedded cloud can't start: {error}") from error
    except ValueError as error:
        raise click.ClickException(
            f"the embedded cloud can't use what is in its folder: {error}"
        ) from error


def _watch(app: App, file: Path, recorder: Child, expected: int, patience: float) -> SyncLog:
    """Show the recording grow, then its upload, until the history says how it ended."""
    from rich.console import Console  # noqa: PLC0415 - only for those who watch
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    pause = threading.Event()
    waited = 0.0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        recording = progress.add_task("recording (not taken: it has no footer yet)", total=expected)
        uploading = progress.add_task("uploading", total=None)
        said: set[str] = set()
        while waited < patience:
            finished = recorder.exit_code is not None
            if recorder.exit_code:
                raise click.ClickException(f"the recorder failed: {recorder.last_words()}")
            _say(
                console,
                said,
                "recorded, closed" if finished else "recording: not taken, it has no footer yet",
            )
            size = file.stat().st_size if file.exists() else 0
            progress.update(
                recording, completed=size, total=size if finished else max(expected, size)
            )
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
        f"not finished after {patience:.0f} s: {closed.reason if closed else 'no reason known'}"
    )


def _say(console: Console, said: set[str], line: str) -> None:
    """A plain line for each step, once, where the output is no terminal."""
    if line not in said and not console.is_terminal:
        said.add(line)
        click.echo(line)


def _prove(cloud: DevCloud, file: Path, log: SyncLog) -> None:
    if not log.synced:
        raise click.ClickException(
            f"the recording was not stored: {log.error and log.error.message}"
        )
    stored, recorded = cloud.object_sha256(log.object_key), _sha256(file)
    click.echo(f"object    {cloud.store_url}/{log.bucket}/{log.object_key}")
    click.echo(f"recorded  sha256 {recorded}, {log.file_size} bytes")
    click.echo(
        f"stored    sha256 {stored}: {'the same bytes' if stored == recorded else 'OTHER BYTES'}"
    )
    click.echo("history")
    print_json(to_json(log))
    if stored != recorded:
        raise click.ClickException("the object differs from the recording")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_MIB):
            digest.update(block)
    return digest.hexdigest()


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where state and objects live. [default: a new one]",
)
@click.option(
    "--store",
    default="auto",
    show_default=True,
    help="auto, rclone, minio, or the URL of an S3 endpoint.",
)
@click.option("--tls", is_flag=True, help="Speak TLS, with a CA made for this cloud.")
@click.option("--lease-seconds", type=click.FloatRange(1), default=3600, show_default=True)
@click.option("--token-seconds", type=click.FloatRange(1), default=3600, show_default=True)
@click.option("--part-size-mib", type=click.IntRange(5), default=8, show_default=True)
@click.option(
    "--bandwidth",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Bytes per second, 0 = all.",
)
@click.option("--device", "devices", multiple=True, default=("robot-1",), show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="How robots reach it; any other is open to all.",
)
@click.option(
    "--gateway-port", type=click.IntRange(0, 65535), default=0, help="[default: any that is free]"
)
@click.option(
    "--store-port", type=click.IntRange(0, 65535), default=0, help="[default: any that is free]"
)
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
    host: str,
    gateway_port: int,
    store_port: int,
) -> None:
    """Run the embedded cloud and print how to point an agent at it; Ctrl-C ends it."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as running:
        with _explained(), ExitStack() as failing:
            from agent.devcloud import servers  # noqa: PLC0415 - an extra
            from agent.devcloud.cloud import DevCloud  # noqa: PLC0415

            if folder is None:
                store = servers.choose(store)
                folder = Path(tempfile.mkdtemp(prefix="keystone-devcloud-"))
                failing.callback(shutil.rmtree, folder, ignore_errors=True)
            cloud = DevCloud(
                absolute(folder),
                store=store,
                tls=tls,
                lease_seconds=lease_seconds,
                token_seconds=token_seconds,
                part_size_bytes=part_size_mib * _MIB,
                bandwidth=bandwidth,
                devices=devices,
                host=host,
                gateway_port=gateway_port,
                store_port=store_port,
            )
            running.enter_context(cloud)
            failing.pop_all()
        click.echo(f"# gateway {cloud.gateway_url}, store {cloud.store_url}, bucket {cloud.bucket}")
        click.echo(
            f"# everything is in {cloud.folder} and stays there: start it again with --folder, or remove it"
        )
        click.echo(f"# keystone-agent run --config {cloud.config_path}")
        click.echo(cloud.config_path.read_text(encoding="utf-8"))
        stop.wait()
