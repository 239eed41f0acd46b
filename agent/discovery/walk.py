"""Walks over the watched folders and finds the files that may become recordings by their names.

Files that are passed over are counted here, too, and marker files are collected.
"""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would cost most.
# ruff: noqa: PTH112, PTH116, PTH118

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.discovery.file_names import SIDECAR, sidecar_name
from agent.discovery.name_rules import NameFilter, foreign

_log = logging.getLogger(__name__)

# The error numbers by which the kernel says that a path leads nowhere.
GONE = (errno.ENOENT, errno.ENOTDIR)

# The reason that people see for a file or folder that an unexpected error kept from being read.
MISTAKE = "a mistake in the agent; see the log"


class WalkEntry(NamedTuple):
    """A file that may become a recording, by its name.

    ``beside`` tells whether there is a file that has the name of its sidecar.
    """

    name: str
    state: os.stat_result
    beside: bool


# What a walk need not ask again about the files of one folder.
#
# First the names that an earlier walk has given: these need not be judged again. Then a function
# that tells by name and ``beside`` which of these files are spared: their state is not asked for
# this time. None instead of the function means that no file is spared.
Memory = tuple[Container[str], Callable[[str, bool], bool] | None]


@dataclass(slots=True)
class WalkResult:
    """What one walk has seen.

    Filled by one thread while the walk lasts, and only read afterwards.
    """

    # The folders that could be listed.
    listed: set[str] = field(default_factory=set)

    # Device and inode of each folder. They detect loops where links are followed.
    identities: set[tuple[int, int]] = field(default_factory=set)

    # Why a folder could not be read, by its path.
    unreadable: dict[str, str] = field(default_factory=dict)

    # The unexpected errors by folder. Each scan has new error objects, so they do not count when
    # two results are compared.
    mistakes: dict[str, Exception] = field(default_factory=dict, compare=False)

    # How many files that may be meant as recordings are ignored, by suffix.
    ignored: Counter[str] = field(default_factory=Counter)

    markers: list[str] = field(default_factory=list)

    # Files that say why a marker was rejected.
    rejected: list[str] = field(default_factory=list)

    links: int = 0

    # Whether the log of this agent's life says that links are skipped.
    links_logged: bool = False

    # The watched folders that do not exist.
    missing: list[str] = field(default_factory=list)

    seconds: float = field(default=0.0, compare=False)

    def fail(self, folder: str, error: Exception) -> None:
        """Note that an unforeseen error kept the agent from reading ``folder``.

        As with a folder that can't be read, the files that are known there are not forgotten.
        """
        self.unreadable[folder] = MISTAKE
        self.mistakes[folder] = error


def tops(roots: Sequence[str], rules: NameFilter, survey: WalkResult) -> list[str]:
    """Return the roots to walk from: those that exist and that no walk from another root covers.

    Roots that do not exist are noted in ``survey``.
    """
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
    memory_of: Callable[[str], Memory] = lambda _folder: ((), None),
) -> Iterator[tuple[str, list[WalkEntry], list[str]]]:
    """Yield each folder below ``top`` with its files and with the names of its spared files.

    A folder that can't be read is noted in ``survey``, and the walk goes on with the others.

    Args:
        top: The folder to begin with.
        rules: Which names count.
        survey: Filled with what the walk sees.
        memory_of: What need not be asked again about the files of a folder.
    """
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            if rules.follow and not first_visit(os.stat(folder), survey.identities):
                continue
            files, spared, below = _listed(folder, rules, survey, memory_of(folder))
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


def log_changes(before: WalkResult, after: WalkResult) -> None:
    """Log which folders went away, came back or can't be read any more since the scan before.

    That links are skipped is logged only once.
    """
    for root in sorted(set(after.missing) - set(before.missing)):
        _log.warning(
            "watched folder %s is not there", root, extra={"event": "root_missing", "path": root}
        )
    for root in sorted(set(before.missing) - set(after.missing)):
        _log.info("watched folder %s is there", root, extra={"event": "root_found", "path": root})
    # An unforeseen error is in the log already.
    logged = before.unreadable.keys() | after.mistakes.keys()
    for folder in sorted(after.unreadable.keys() - logged):
        why = after.unreadable[folder]
        _log.warning(
            "can't read folder %s: %s", folder, why, extra={"event": "unreadable", "path": folder}
        )
    if after.links and not before.links_logged:
        text = "%d symbolic links are skipped; watch.follow_symlinks would follow them"
        _log.info(text, after.links, extra={"event": "links_skipped"})
    after.links_logged = before.links_logged or after.links > 0


def _listed(
    folder: str, rules: NameFilter, survey: WalkResult, memory: Memory
) -> tuple[list[WalkEntry], list[str], list[str]]:
    """Return the files, the names of the spared files and the folders in this very folder.

    Raises OSError where the folder can't be read.
    """
    known, is_spared = memory
    # The kernel finds each file sooner from the open folder than from a path.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as listing:
            entries = list(listing)
        sidecars = {
            entry.name for entry in entries if rules.sidecars and entry.name.endswith(SIDECAR)
        }
        files: list[WalkEntry] = []
        spared: list[str] = []
        folders: list[str] = []
        for entry in entries:
            name = entry.name
            beside = bool(sidecars) and sidecar_name(name) in sidecars
            try:
                if name in known and entry.is_file(follow_symlinks=False):
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
                # The file vanished, or it is a link that leads nowhere.
                continue
        return files, spared, folders
    finally:
        os.close(descriptor)


def _is_folder(entry: os.DirEntry[str], rules: NameFilter) -> bool:
    """Return whether ``entry`` is a folder that the walk goes into."""
    return not rules.excluded(entry.name) and entry.is_dir(follow_symlinks=rules.follow)


def _candidate(
    folder: str, entry: os.DirEntry[str], rules: NameFilter, survey: WalkResult
) -> os.stat_result | None:
    """Return the state of a file that may become a recording, or None for any other file.

    The other files are noted in ``survey``.
    """
    if not rules.follow and entry.is_symlink():
        survey.links += not rules.excluded(entry.name)
        return None
    kind = rules.kind(entry.name)
    if kind == "recording":
        return entry.stat()
    if kind == "marker":
        survey.markers.append(os.path.join(folder, entry.name))
    elif kind == "rejected":
        survey.rejected.append(os.path.join(folder, entry.name))
    elif suffix := foreign(entry.name):
        survey.ignored[suffix] += 1
    return None


def first_visit(state: os.stat_result, visited: set[tuple[int, int]]) -> bool:
    """Return whether the folder with this state is not among the ``visited`` ones, and add it.

    Where links are followed, one folder has several names, and a link may lead to a folder above
    itself. So a folder is listed only under the name by which a walk first comes to it.
    """
    identity = state.st_dev, state.st_ino
    if identity in visited:
        return False
    visited.add(identity)
    return True
