"""The pages agree with the code: settings, commands, files, events and names."""

from __future__ import annotations

import ast
import json
import re
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
DEPLOY = (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8")
    for folder in ("", "config", "deploy")
    for path in sorted((REPOSITORY / folder).glob("*.md"))
}


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"{prefix}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


def chapter(page: str, title: str) -> str:
    """Return the text of a page below a heading of the second level."""
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


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_the_package_ships_all_pages_and_all_that_they_link_to() -> None:
    build = (REPOSITORY / "deploy" / "debian" / "build.py").read_text(encoding="utf-8")
    wanted = set(PAGES)
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if not link.startswith("https://"):
                wanted.add((page.parent / link).resolve())
    names = sorted(str(path.relative_to(REPOSITORY)) for path in wanted)
    assert len(names) > 8
    assert [name for name in names if f'"{name}"' not in build] == []


def test_every_link_of_a_page_leads_to_something() -> None:
    broken = []
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith("https://"):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (anchor and anchor not in anchors(PAGES[target])):
                broken.append(f"{page.relative_to(REPOSITORY)}: {link}")
    assert broken == []


def anchors(text: str) -> set[str]:
    """Return the names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_that_contributors_are_sent_to_is_there() -> None:
    text = PAGES[REPOSITORY / "CONTRIBUTING.md"]
    named = set(re.findall(r"`((?:agent|config|deploy|proto|tests)/[\w./-]+)`", text))
    named -= {"agent/cli/commands/NAME.py", "tests/unit/FOLDER/test_MODULE.py"}
    assert len(named) > 30
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


def test_every_make_target_that_a_page_names_is_there() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        name
        for text in PAGES.values()
        for name in re.findall(r"(?:`|^ *|&& )make ([a-z-]+)", text, re.MULTILINE)
    }
    assert named >= {"demo", "test", "check", "deb"}
    assert named - targets == set()


def test_every_configuration_on_a_page_is_valid(tmp_path: Path) -> None:
    nothing: Mapping[str, str] = {}
    shown = [
        text
        for page in PAGES.values()
        for text in re.findall(r"```toml\n(.+?)```", page, re.DOTALL)
    ]
    shown.append(README.partition("<<'END'\n")[2].partition("\nEND\n")[0])
    assert len(shown) > 1
    for number, text in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(text, encoding="utf-8")
        assert load(file, nothing).settings.cloud.mode == "bucket"


def test_every_event_on_the_page_is_one_that_the_agent_logs() -> None:
    table = chapter(DEPLOY, "Logging").partition("| event |")[2]
    named = {
        name
        for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "agent").rglob("*.py"))
    words = set(re.findall(r"\"(\w+)\"", sources))
    # The name of an event of an upload policy is a code and one of two endings.
    words |= {f"{code}_{ending}" for code in ("windows", "link") for ending in ("closed", "open")}
    assert len(named) > 30
    assert named - words == set()


def test_the_figures_of_the_comparison_are_those_of_the_benchmarks() -> None:
    rows = re.findall(
        r"^\| ([\w-]+) \| (\d.*) \|$", chapter(README, "How it compares"), re.MULTILINE
    )
    assert len(rows) > 3
    measured = (REPOSITORY / "BENCHMARKS.md").read_text(encoding="utf-8").splitlines()
    for tool, figures in rows:
        there = " ".join(line for line in measured if line.strip("| ").startswith(f"{tool} |"))
        missing = [text for text in re.findall(r"[\d.]+", figures) if f" {text} " not in there]
        assert (tool, missing) == (tool, [])


def test_every_command_is_in_the_readme() -> None:
    from agent.cli import cli  # noqa: PLC0415 - the tests of the settings run without the commands

    names = list(commands(cli))
    assert names
    assert [name for name in names if f"keystone-agent {name}" not in README] == []


def test_no_advice_names_a_command_that_is_not_there() -> None:
    from agent.cli import cli  # noqa: PLC0415 - the tests of the settings run without the commands

    sources = [
        *(REPOSITORY / "agent").rglob("*.py"),
        *PAGES,
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
    table = README.partition("### Touch files\n")[2].partition("\n### ")[0]
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
        for pattern in ("*/*.py", "*/*/*.py")
        for path in (REPOSITORY / "agent").glob(pattern)
        if path.name != "__init__.py" and path.parent.name != "pb"
    ]
    map_ = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(modules) > 50
    assert [str(path) for path in modules if f" {path.name} " not in map_] == []


def test_every_lock_of_the_agent_has_its_place_in_the_order() -> None:
    table = chapter(PAGES[REPOSITORY / "ARCHITECTURE.md"], "Locks")
    found = set()
    for path in (REPOSITORY / "agent").rglob("*.py"):
        if "devcloud" not in path.parts:
            found |= set(locks_of(path))
    assert len(found) > 20
    assert sorted(name for name in found if f"`{name}`" not in table) == []
    assert set(re.findall(r"`(_?[A-Z]\w+\._?\w+)`", table)) - found == set()


def locks_of(path: Path) -> Iterator[str]:
    """Yield the locks that the classes of a module make, as CLASS.ATTRIBUTE."""
    for class_ in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(class_, ast.ClassDef):
            continue
        for node in ast.walk(class_):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = ast.unparse(node.value.func)
                if made in ("threading.Lock", "threading.RLock", "threading.Condition"):
                    yield f"{class_.name}.{ast.unparse(node.targets[0]).removeprefix('self.')}"


def test_every_picture_is_there_and_needs_no_network() -> None:
    pictures = [REPOSITORY / path for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)]
    assert pictures
    for picture in pictures:
        assert (
            re.search(r"""(url\(|href=|src=)["']?https?:""", picture.read_text(encoding="utf-8"))
            is None
        )


def test_robots_get_the_versions_that_were_tested() -> None:
    tested, robots = (
        set(re.findall(r"^\S.*", (REPOSITORY / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "deploy/requirements.lock")
    )
    assert len(robots) > 20
    assert robots - tested == set()
