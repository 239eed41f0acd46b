"""Records `status --watch` in a terminal of 80 columns during two uploads, and draws what the terminal shows.

Run by `make picture`; needs tmux. What it prints is the text of the picture.
"""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from agent.devcloud.cloud import DevCloud
from tests.harness.agent_process import Agent, running
from tests.harness.recorders import unfinished, write_mcap

COLUMNS, LINES = 80, 30
MIB = 1024 * 1024
_BLANK, _WIDTH = "&#160;", 12.2  # as rich writes a blank, and how wide a letter is
PICTURE = Path(__file__).with_name("status-watch.svg")


def main() -> None:
    """Draw the picture anew."""
    with (
        tempfile.TemporaryDirectory() as folder,
        DevCloud(Path(folder), bandwidth=4 * MIB) as cloud,
        _folder_with_a_short_name() as data,
        running(cloud, data, AGENT__DEVICE_ID="robot-7") as agent,
    ):
        for number, (line, size) in enumerate(
            (("line-1", 60), ("line-2", 100), ("line-2", 30), ("line-3", 20))
        ):
            (agent.root / line).mkdir(exist_ok=True)
            write_mcap(agent.root / line / f"pick-{number + 41}.mcap", size=size * MIB, seed=number)
        unfinished(agent.root / "line-3" / "pick-45.mcap")
        screen = _screen(
            agent, "tmux", "-L", f"keystone-picture-{cloud.gateway_url.rpartition(':')[2]}"
        )
    text = Text.from_ansi(screen)
    PICTURE.write_text(drawn(text), encoding="utf-8")
    print(text.plain)  # noqa: T201 - to be looked at


@contextmanager
def _folder_with_a_short_name() -> Iterator[Path]:
    """Yield a new folder whose name fits into one line of the picture.

    Raises FileExistsError where the folder is there already.
    """
    folder = Path(tempfile.gettempdir(), "robot")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _screen(agent: Agent, *tmux: str) -> str:
    """What a terminal shows once both uploads are well under way, with its colours."""
    settings = [
        f"{name}={text}"
        for name, text in agent.environ.items()
        if name.startswith("KEYSTONE_AGENT_")
    ]
    watch = [sys.executable, "-m", "agent", "status", "--watch", "--config", agent.config]
    command = shlex.join(["env", *settings, *watch])
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    _run([*tmux, "-f", "/dev/null", "new-session", "-d", *size, command])
    try:
        for _ in range(600):
            screen = _run([*tmux, "capture-pane", "-e", "-p"])
            shares = [int(share) for share in re.findall(r"(\d+)%", Text.from_ansi(screen).plain)]
            if len(shares) == 2 and min(shares) >= 25:
                return screen.rstrip()
            threading.Event().wait(0.1)
    finally:
        _run([*tmux, "kill-server"])
    raise SystemExit(f"two uploads were never seen:\n{screen}")


def drawn(text: Text) -> str:
    """An SVG that looks the same without the network, whence rich would load its font, and in every viewer."""
    console = Console(record=True, width=COLUMNS, file=StringIO())
    console.print(text, no_wrap=True, crop=False)
    svg = console.export_svg(title="keystone-agent status --watch", unique_id="watch")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas").replace(
        "font-size: 20px", "font-size: 20.26px"
    )
    svg = re.sub(r'x="([\d.]+)" y="([\d.]+)" textLength="[\d.]+"([^>]*)>([^<]*)', _trimmed, svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE).rstrip() + "\n"


def _trimmed(found: re.Match[str]) -> str:
    """A text without the blanks around it, which viewers treat differently."""
    x, y, more, text = found.groups()
    plain = text.replace(_BLANK, " ")
    left = float(x) + _WIDTH * (len(plain) - len(plain.lstrip()))
    plain = plain.strip()
    length = _WIDTH * len(html.unescape(plain))
    return f'x="{left:g}" y="{y}" textLength="{length:g}"{more}>{plain.replace(" ", _BLANK)}'


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


if __name__ == "__main__":
    main()
