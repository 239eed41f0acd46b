"""What lies below the watched folders by name: files that may become recordings, and what is passed over."""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would be most of its cost.
# ruff: noqa: PTH112, PTH116, PTH118, PTH122, PTH206

from __future__ import annotations

import errno
import fnmatch
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.discovery.examine import COMPRESSED, DONE
from agent.model.touch_files import FIRST, REJECTED, RESYNC, is_rejected, target_of

_log = logging.getLogger(__name__)

GONE = (errno.ENOENT, errno.ENOTDIR)
MISTAKE = "a mistake in the agent; see the log"
_SIDECAR = ".json"
_OURS = (DONE, RESYNC, FIRST, REJECTED)


class NameFilter:
    """Which names count: ``include`` and ``exclude`` are shell patterns for base names, exclude for folders too."""

    def __init__(
        self,
        include: Iterable[str],
        exclude: Iterable[str],
        *,
        follow_symlinks: bool = False,
        sidecars: bool = True,
    ) -> None:
        """Links are passed over unless ``follow_symlinks``, sidecars unless ``sidecars``."""
        self._included = _globs(include)
        self.excluded = _globs(exclude)
        self.follow = follow_symlinks
        self.sidecars = sidecars

    def wanted(self, name: str) -> bool:
        """Whether a file of this base name may become a recording."""
        return self._included(name) and not self.excluded(name)

    def asks(self, name: str) -> bool:
        """Whether a file of this base name is a touch file: for its folder, or for what may be meant as a recording."""
        target = target_of(name)
        return target is not None and (
            not target or self._included(target) or bool(foreign(target))
        )

    def reaches(self, top: str, path: str) -> bool:
        """Whether a walk from ``top`` comes to ``path``."""
        if not is_below(path, top):
            return False
        return not any(
            self.excluded(part)
            for part in os.path.relpath(path, top).split(os.sep)
            if part != os.curdir
        )


class WalkEntry(NamedTuple):
    """What may become a recording, by its name. ``beside``: there is a file of its sidecar's name."""

    name: str
    state: os.stat_result
    beside: bool


Memory = tuple[Container[str], Callable[[str, bool], bool] | None]
"""Of the files in a folder: which were given before, so that their names need not be judged again; and of those, by
name and ``beside``, which are spared: their state is not asked for this time. None: ask for all."""


@dataclass(slots=True)
class WalkResult:
    """What one walk has seen."""

    listed: set[str] = field(default_factory=set)
    identities: set[tuple[int, int]] = field(
        default_factory=set
    )  # of folders, against loops of followed links
    unreadable: dict[str, str] = field(default_factory=dict)  # folder -> why
    # The unforeseen errors by folder. Each scan has new ones, so two surveys are compared without.
    mistakes: dict[str, Exception] = field(default_factory=dict, compare=False)
    ignored: Counter[str] = field(default_factory=Counter)  # suffix -> files
    markers: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)  # why markers were not served
    links: int = 0
    told_links: bool = False  # in this agent's life
    missing: list[str] = field(default_factory=list)
    seconds: float = field(default=0.0, compare=False)

    def fail(self, folder: str, error: Exception) -> None:
        """Note that an unforeseen error kept the agent from looking at ``folder``.

        As with a folder that can't be read, the files that are known there are not forgotten.
        """
        self.unreadable[folder] = MISTAKE
        self.mistakes[folder] = error


def tops(roots: Sequence[str], rules: NameFilter, survey: WalkResult) -> list[str]:
    """The roots to walk from: those that are there, less those that another one covers."""
    found: dict[str, str] = {}
    for real, root in sorted((os.path.realpath(root), root) for root in dict.fromkeys(roots)):
        if not os.path.isdir(real):
            survey.missing.append(root)
        elif not any(rules.reaches(top, real) for top in found):
            found[real] = root
    return list(found.values())


def walk(
    top: str,
    rules: NameFilter,
    survey: WalkResult,
    known: Callable[[str], Memory] = lambda _folder: ((), None),
) -> Iterator[tuple[str, list[WalkEntry], list[str]]]:
    """Give each folder below ``top`` with its files, less the spared ones, and the names of those.

    One that can't be read is named in ``survey``, and only it. ``known`` is asked about each folder.
    """
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            if rules.follow and not _first_visit(folder, survey):
                continue
            files, spared, below = _listed(folder, rules, survey, known(folder))
        except OSError as error:
            if error.errno not in GONE:
                survey.unreadable[folder] = error.strerror or str(error)
            continue
        except Exception as error:  # noqa: BLE001 - the other folders must be found
            survey.fail(folder, error)
            continue
        survey.listed.add(folder)
        folders += [os.path.join(folder, name) for name in below]
        yield folder, files, spared


def _listed(
    folder: str, rules: NameFilter, survey: WalkResult, known: Memory
) -> tuple[list[WalkEntry], list[str], list[str]]:
    """The files, those spared and the folders in this very one; raises OSError where it can't be read."""
    before, is_spared = known
    # From the open folder the kernel finds each file sooner.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as listing:
            entries = list(listing)
        sidecars = {
            entry.name for entry in entries if rules.sidecars and entry.name.endswith(_SIDECAR)
        }
        files: list[WalkEntry] = []
        spared: list[str] = []
        folders: list[str] = []
        for entry in entries:
            name = entry.name
            beside = bool(sidecars) and sidecar_name(name) in sidecars
            try:
                if name in before and entry.is_file(follow_symlinks=False):
                    if is_spared is not None and is_spared(name, beside):
                        spared.append(name)
                        continue
                    state = entry.stat(follow_symlinks=False)
                elif _is_folder(entry, rules):
                    folders.append(name)
                    continue
                elif (judged := _candidate(folder, entry, rules, survey)) is None:
                    continue
                else:
                    state = judged
                files.append(WalkEntry(name, state, beside))
            except OSError:
                continue  # it vanished, or is a link to nowhere
        return files, spared, folders
    finally:
        os.close(descriptor)


def _is_folder(entry: os.DirEntry[str], rules: NameFilter) -> bool:
    """Whether the walk goes into ``entry``."""
    return not rules.excluded(entry.name) and entry.is_dir(follow_symlinks=rules.follow)


def _candidate(
    folder: str, entry: os.DirEntry[str], rules: NameFilter, survey: WalkResult
) -> os.stat_result | None:
    """The state of what may become a recording; what is passed over instead is counted."""
    if not rules.follow and entry.is_symlink():
        survey.links += not rules.excluded(entry.name)
        return None
    if rules.asks(entry.name):
        survey.markers.append(os.path.join(folder, entry.name))
        return None
    if is_rejected(entry.name):
        survey.rejected.append(os.path.join(folder, entry.name))
        return None
    if not rules.wanted(entry.name):
        if suffix := foreign(entry.name):
            survey.ignored[suffix] += 1
        return None
    return entry.stat()


def tell(before: WalkResult, after: WalkResult) -> None:
    """Say which folders went away, came back or can't be read any more; of links only once."""
    for root in sorted(set(after.missing) - set(before.missing)):
        _log.warning(
            "watched folder %s is not there", root, extra={"event": "root_missing", "path": root}
        )
    for root in sorted(set(before.missing) - set(after.missing)):
        _log.info("watched folder %s is there", root, extra={"event": "root_found", "path": root})
    # An unforeseen error is in the log already.
    told = before.unreadable.keys() | after.mistakes.keys()
    for folder in sorted(after.unreadable.keys() - told):
        why = after.unreadable[folder]
        _log.warning(
            "can't read folder %s: %s", folder, why, extra={"event": "unreadable", "path": folder}
        )
    if after.links and not before.told_links:
        text = "%d symbolic links are skipped; watch.follow_symlinks would follow them"
        _log.info(text, after.links, extra={"event": "links_skipped"})
    after.told_links = before.told_links or after.links > 0


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def sidecar_name(name: str) -> str:
    """The base name of a recording's sidecar."""
    return os.path.splitext(name.removesuffix(COMPRESSED))[0] + _SIDECAR


def related(name: str) -> set[str]:
    """Base names of the recordings that something that happened to ``name`` may be about."""
    stem = name
    for suffix in (COMPRESSED, DONE, ".mcap", ".json"):
        stem = stem.removesuffix(suffix)
    return {name, stem + ".mcap", stem + ".mcap" + COMPRESSED}


def _globs(patterns: Iterable[str]) -> Callable[[str], bool]:
    matches = re.compile(
        "|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)"
    ).match
    return lambda name: matches(name) is not None


def _first_visit(folder: str, survey: WalkResult) -> bool:
    state = os.stat(folder)
    identity = state.st_dev, state.st_ino
    if identity in survey.identities:
        return False
    survey.identities.add(identity)
    return True


def foreign(name: str) -> str:
    """The suffix under which an ignored recording is counted; "" for what is none."""
    _, suffix = os.path.splitext(name)
    if suffix in (".db3", ".bag"):
        return suffix
    return f".mcap{suffix}" if ".mcap." in name and suffix not in _OURS else ""
