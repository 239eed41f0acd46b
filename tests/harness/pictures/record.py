"""Records `status --watch` in a terminal during two uploads, and draws what the terminal shows.

`make picture` runs this module, which needs tmux. It prints the text of the picture.
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

# The size of the terminal in characters.
COLUMNS = 80
LINES = 30

MIB = 1024 * 1024

# rich writes a blank in this form.
_BLANK = "&#160;"

# The width of a letter in the SVG that rich writes, in its units.
_LETTER_WIDTH = 12.2

PICTURE = Path(__file__).with_name("status-watch.svg")


def main() -> None:
    """Record the terminal and write the picture."""
    with (
        tempfile.TemporaryDirectory() as folder,
        DevCloud(Path(folder), bandwidth=4 * MIB) as cloud,
        _folder_with_a_short_name() as data,
        running(cloud.agent_files, data, AGENT__DEVICE_ID="robot-7") as agent,
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
    print(text.plain)  # noqa: T201 - the user reads it


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
    """Return what the terminal shows, with its colours, when both uploads are at 25 % or more."""
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
    raise SystemExit(f"the terminal never showed two uploads:\n{screen}")


def drawn(text: Text) -> str:
    """Return ``text`` as an SVG that looks the same in every viewer.

    The SVG of rich loads a font from the network. This one uses the viewer's fonts.
    """
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
    """Return a text element without the blanks around it, which viewers treat differently."""
    x, y, more, text = found.groups()
    plain = text.replace(_BLANK, " ")
    left = float(x) + _LETTER_WIDTH * (len(plain) - len(plain.lstrip()))
    plain = plain.strip()
    length = _LETTER_WIDTH * len(html.unescape(plain))
    return f'x="{left:g}" y="{y}" textLength="{length:g}"{more}>{plain.replace(" ", _BLANK)}'


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


if __name__ == "__main__":
    main()
