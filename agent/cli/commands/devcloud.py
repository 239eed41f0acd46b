"""`devcloud`: runs the embedded cloud, for agents that are started beside it."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import click

from agent.cli.embedded_cloud import start_errors_explained
from agent.cli.options import absolute

_MIB = 1024 * 1024


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
    with ExitStack() as stack:
        with start_errors_explained(), ExitStack() as undo_on_failure:
            # The embedded cloud is an extra of the package, which only these commands need.
            from agent.devcloud import servers  # noqa: PLC0415 - see above
            from agent.devcloud.cloud import DevCloud  # noqa: PLC0415 - see above

            if folder is None:
                store = servers.choose(store)
                folder = Path(tempfile.mkdtemp(prefix="keystone-devcloud-"))
                undo_on_failure.callback(shutil.rmtree, folder, ignore_errors=True)
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
            stack.enter_context(cloud)
            undo_on_failure.pop_all()
        click.echo(f"# gateway {cloud.gateway_url}, store {cloud.store_url}, bucket {cloud.bucket}")
        click.echo(
            f"# everything is in {cloud.folder} and stays there: "
            "start it again with --folder, or remove it"
        )
        click.echo(f"# keystone-agent run --config {cloud.agent_files.config_path}")
        click.echo(cloud.agent_files.config_path.read_text(encoding="utf-8"))
        stop.wait()
