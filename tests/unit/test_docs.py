"""The pages say what the code does: settings, commands, files, events and names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from agent.adapters.config import KEYS, Settings, load
from agent.cloud.identity import flatten
from agent.model import touch_files
from tests.harness import settings_table
from tests.harness.paths import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONFIG = (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"{prefix}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


def chapter(page: str, title: str) -> str:
    """The text of a page below a heading of the second level."""
    text = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, title
    return text


def test_the_table_of_settings_is_the_one_that_agent_toml_gives() -> None:
    toml = (REPOSITORY / "config" / "agent.toml").read_text(encoding="utf-8")
    assert [key for key, _, _ in settings_table.settings(toml)] == list(KEYS)
    again = settings_table.with_table(CONFIG, toml)
    assert again == CONFIG, "run: python -m tests.harness.settings_table"


def test_a_changed_setting_changes_the_table() -> None:
    page = f"before\n{settings_table.BEGIN}\nold\n{settings_table.END}\nafter\n"
    toml = '# Of the file.\n\n[a]\n# The first\n# setting.\nb = "c"\n'
    assert settings_table.with_table(page, toml) == (
        f"before\n{settings_table.BEGIN}\n| key | default | meaning |\n|---|---|---|\n"
        f'| `a.b` | `"c"` | The first setting. |\n{settings_table.END}\nafter\n'
    )


def test_the_example_of_a_sidecar_gives_the_tags_that_stand_below_it() -> None:
    told = chapter(CONFIG, "Sidecars and tags")
    sidecar = json.loads(told.partition("```json\n")[2].partition("```")[0])
    lines = told.partition("```text\n")[2].partition("```")[0].splitlines()
    tags = {key.strip(): value for key, _, value in (line.partition(" = ") for line in lines)}
    assert len(tags) > 5
    assert tags == flatten(sidecar)


def test_every_setting_stands_in_the_file_that_is_installed_with_its_default() -> None:
    nothing: Mapping[str, str] = {}
    loaded = load(REPOSITORY / "config" / "agent.toml", nothing)
    assert [key for key, origin in loaded.origin.items() if origin == "default"] == []
    assert loaded.settings == Settings()


def test_every_command_is_in_the_readme() -> None:
    from agent.cli import cli  # noqa: PLC0415 - the settings are proven without it

    names = list(commands(cli))
    assert names
    assert [name for name in names if f"keystone-agent {name}" not in README] == []


def test_no_advice_names_a_command_that_is_not_there() -> None:
    from agent.cli import cli  # noqa: PLC0415 - the settings are proven without it

    sources = [
        *(REPOSITORY / "agent").rglob("*.py"),
        REPOSITORY / "README.md",
        REPOSITORY / "config" / "agent.toml",
    ]
    named = {
        name
        for source in sources
        for name in re.findall(r"keystone-agent ([a-z]+)\b", source.read_text("utf-8"))
    }
    assert named >= {"history", "run"}
    assert named - set(cli.commands) == set()


def test_every_touch_file_is_in_the_readme() -> None:
    table = README.partition("## Touch files")[2].partition("\n## ")[0]
    names = [
        touch_files.RESYNC,
        touch_files.FIRST,
        touch_files.REJECTED,
        touch_files.PAUSE,
        touch_files.RESCAN,
    ]
    assert [name for name in names if name not in table] == []


def test_every_module_is_on_the_map() -> None:
    modules = [
        path
        for path in (REPOSITORY / "agent").glob("*/*.py")
        if path.name != "__init__.py" and path.parent.name != "pb"
    ]
    map_ = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(modules) > 50
    assert [str(path) for path in modules if f" {path.name} " not in map_] == []


def test_every_picture_is_there_and_needs_no_network() -> None:
    pictures = [REPOSITORY / path for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)]
    assert pictures
    for picture in pictures:
        assert (
            re.search(r"""(url\(|href=|src=)["']?https?:""", picture.read_text(encoding="utf-8"))
            is None
        )


def test_a_python_that_is_too_old_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    patched = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{patched}' \"$2\"\n")
    old.chmod(0o755)
    venv = tmp_path / "venv"
    told = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-C",
            str(REPOSITORY),
            "demo",
            f"PYTHON={old}",
            f"VENV={venv}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert (
        f"Python 3.10 or newer is needed; {old} is 3.9. Name another one, as in: make demo"
        in told.stderr
    )
    assert not venv.exists()


def test_robots_get_the_versions_that_were_tested() -> None:
    tested, robots = (
        set(re.findall(r"^\S.*", (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "deploy/requirements.lock")
    )
    assert len(robots) > 20
    assert robots - tested == set()
