"""`demo`: records a file, uploads it to the embedded cloud and compares the bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.adapters import logs
from agent.adapters.config import load
from agent.adapters.history import to_json
from agent.assembly.app import App
from agent.assembly.ports import open_ports
from agent.cli.embedded_cloud import start_errors_explained
from agent.cli.options import print_json
from agent.model.sync_log import SyncLog

if TYPE_CHECKING:
    from rich.console import Console

    from agent.devcloud.cloud import DevCloud
    from agent.devcloud.servers import Child

_MIB = 1024 * 1024

# The upload is slowed down to this rate, so that people can see it.
_LINK_MIB_PER_SECOND = 24

# How long the demo waits, in addition to the time that recording and sending must take.
_PATIENCE_SECONDS = 50.0

_POLL_SECONDS = 0.1


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
    # A shell lets its background jobs ignore SIGINT, and a process inherits that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with ExitStack() as stack:
        with start_errors_explained():
            # The embedded cloud is an extra of the package, which only these commands need.
            from agent.devcloud import recorder, servers  # noqa: PLC0415 - see above
            from agent.devcloud.cloud import DevCloud  # noqa: PLC0415 - see above

            store = servers.choose("auto")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keystone-demo-")))
            bandwidth = _LINK_MIB_PER_SECOND * _MIB
            cloud = stack.enter_context(DevCloud(folder, store=store, bandwidth=bandwidth))
        click.echo(f"embedded cloud: {cloud.store_url}, bucket {cloud.bucket}")
        click.echo(f"everything is in {folder}, which is removed at the end")
        app = _start_agent(cloud, stack)
        file = app.settings.watch.roots[0] / "line-3" / "pick-and-place.mcap"
        command = [sys.executable, "-m", recorder.__name__, str(file)]
        options = [f"--seconds={seconds}", f"--mebibytes={mebibytes}"]
        child = servers.Child([*command, *options], folder / "recorder.log")
        stack.callback(child.stop)
        patience_seconds = _PATIENCE_SECONDS + seconds + 3 * mebibytes / _LINK_MIB_PER_SECOND
        log = _Viewer(app, file, child).run(mebibytes * _MIB, patience_seconds)
        _print_proof(cloud, file, log)


def _start_agent(cloud: DevCloud, stack: ExitStack) -> App:
    """Start an agent in this process, which ``stack`` will stop.

    The settings of an agent that is installed on this machine have no effect on this one.
    """
    environ = {
        name: text for name, text in os.environ.items() if not name.startswith("KEYSTONE_AGENT_")
    }
    settings = load(cloud.agent_files.config_path, environ).settings
    log = settings.log
    redactor = logs.start("INFO", log.dir, log.max_mib, log.files, console=False)
    stack.callback(logs.stop)
    app = App(settings, open_ports(settings, environ, hide=redactor.hide))
    app.start()
    stack.callback(app.stop)
    return app


class _Viewer:
    """Shows a recording grow and then its upload, until the upload has ended.

    A terminal gets progress bars, anything else one plain line for each step. Used by the main
    thread.
    """

    def __init__(self, app: App, file: Path, recorder: Child) -> None:
        """Create a viewer of ``file``, which the process ``recorder`` writes."""
        self._app = app
        self._file = file
        self._recorder = recorder
        self._printed: set[str] = set()

    def run(self, expected_bytes: int, patience_seconds: float) -> SyncLog:
        """Return the document of the recording once its upload has ended.

        Raises click.ClickException where the recorder fails, or where the upload takes longer
        than ``patience_seconds``.
        """
        # Other commands start faster without rich.
        from rich.console import Console  # noqa: PLC0415 - see above
        from rich.progress import (  # noqa: PLC0415 - see above
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

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
            recording = progress.add_task(
                "recording (not taken: it has no footer yet)", total=expected_bytes
            )
            uploading = progress.add_task("uploading", total=None)
            while waited < patience_seconds:
                finished = self._recorder_finished()
                step = "recording: not taken, it has no footer yet"
                self._print_step(console, "recorded, closed" if finished else step)
                size = self._file.stat().st_size if self._file.exists() else 0
                total = size if finished else max(expected_bytes, size)
                progress.update(recording, completed=size, total=total)
                for claim in self._app.dispatch.in_flight():
                    self._print_step(console, "uploading")
                    sent = claim.transfer.sent
                    progress.update(uploading, total=claim.log.file_size, completed=sent)
                log = self._ended_log()
                if log is not None:
                    size = log.file_size
                    progress.update(uploading, total=size, completed=size)
                    return log
                waited += _POLL_SECONDS
                pause.wait(_POLL_SECONDS)
        closed = self._app.gate.closed()
        reason = closed.reason if closed else "no reason known"
        raise click.ClickException(f"not finished after {patience_seconds:.0f} s: {reason}")

    def _recorder_finished(self) -> bool:
        """Return whether the recorder has ended. Raises click.ClickException where it failed."""
        finished = self._recorder.exit_code is not None
        if self._recorder.exit_code:
            raise click.ClickException(f"the recorder failed: {self._recorder.last_words()}")
        return finished

    def _ended_log(self) -> SyncLog | None:
        """Return the recording's document once that has ended."""
        return next((log for log in self._app.history.at_path(self._file) if not log.open), None)

    def _print_step(self, console: Console, step: str) -> None:
        """Print a step once, where the output is no terminal."""
        if step not in self._printed and not console.is_terminal:
            self._printed.add(step)
            click.echo(step)


def _print_proof(cloud: DevCloud, file: Path, log: SyncLog) -> None:
    """Print the digests of the recording and of the object in the bucket.

    Raises click.ClickException where there is no object, or where it has other bytes.
    """
    if not log.synced:
        raise click.ClickException(
            f"the recording was not stored: {log.error and log.error.message}"
        )
    stored, recorded = cloud.object_sha256(log.object_key), _sha256(file)
    verdict = "the same bytes" if stored == recorded else "OTHER BYTES"
    click.echo(f"object    {cloud.store_url}/{log.require_session().bucket}/{log.object_key}")
    click.echo(f"recorded  sha256 {recorded}, {log.file_size} bytes")
    click.echo(f"stored    sha256 {stored}: {verdict}")
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
