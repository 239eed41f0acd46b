"""The rules for names: which files may become recordings, and which folders are walked into.

A walk, a hint of the file system and the commands `why`, `ls` and `scan` judge by these rules.
"""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would cost most.
# ruff: noqa: PTH114, PTH118, PTH122, PTH206

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from agent.discovery.file_names import DONE, is_below
from agent.model.system_folders import SYSTEM_FOLDERS
from agent.model.touch_files import FIRST, REJECTED, RESYNC, is_rejected, target_of

# What a file may be by its base name. "excluded" would be a recording without the patterns of
# ``exclude``. "marker" is a marker file, and "rejected" says why a marker file was rejected.
NameKind = Literal["recording", "excluded", "marker", "rejected", "other"]

# Suffixes of files that belong to a recording. They are not counted as ignored recordings.
_OWN_SUFFIXES = (DONE, RESYNC, FIRST, REJECTED)


class NameFilter:
    """Decides by name which files may become recordings, and which folders are walked into.

    ``include`` and ``exclude`` are shell patterns for base names. The patterns of ``exclude`` hold
    for folders, too. Folders of the system, such as recycle bins, are excluded in any case.

    Does not change once it is made, so any thread may use it.
    """

    def __init__(
        self,
        include: Iterable[str],
        exclude: Iterable[str],
        *,
        follow_symlinks: bool = False,
        sidecars: bool = True,
    ) -> None:
        """Judge names by these patterns.

        Args:
            include: Patterns for the names of recordings.
            exclude: Patterns for the names of files and folders that are passed over.
            follow_symlinks: Whether links are followed.
            sidecars: Whether sidecars count.
        """
        self._exclude = (*exclude, *SYSTEM_FOLDERS)
        self._included = _matcher(include)
        self.excluded = _matcher(self._exclude)
        self.follow = follow_symlinks
        self.sidecars = sidecars

    def kind(self, name: str) -> NameKind:
        """Return what a file of this base name may be.

        The name of a marker file stays one, even where it matches ``include`` or ``exclude``.
        """
        if self.is_marker(name):
            return "marker"
        if is_rejected(name):
            return "rejected"
        if not self._included(name):
            return "other"
        return "excluded" if self.excluded(name) else "recording"

    def wanted(self, name: str) -> bool:
        """Return whether a file of this base name may become a recording."""
        return self.kind(name) == "recording"

    def is_marker(self, name: str) -> bool:
        """Return whether a file of this base name is a marker file.

        A marker file is for its folder, or for a file that may be meant as a recording.
        """
        target = target_of(name)
        if target is None:
            return False
        return not target or self._included(target) or bool(foreign(target))

    def reaches(self, top: str, path: str) -> bool:
        """Return whether no name keeps a walk from ``top`` from coming to ``path``."""
        return is_below(path, top) and self.exclusion(top, path) is None

    def exclusion(self, top: str, path: str) -> tuple[str, str] | None:
        """Return the first name between ``top`` and ``path`` that is excluded, and its pattern.

        The name of ``path`` counts, that of ``top`` does not. Returns None where no name is
        excluded.
        """
        for part in _parts(top, path):
            if self.excluded(part):
                return part, next(glob for glob in self._exclude if fnmatch.fnmatchcase(part, glob))
        return None

    def first_link(self, top: str, path: str) -> str:
        """Return the first link at which a walk from ``top`` to ``path`` stops, "" for none.

        ``path`` itself may be that link. ``top`` may be a link: the configuration names it.
        """
        if self.follow:
            return ""
        place = top
        for part in _parts(top, path):
            place = os.path.join(place, part)
            if os.path.islink(place):
                return place
        return ""


def foreign(name: str) -> str:
    """Return the suffix under which an ignored recording is counted; "" for any other file."""
    _, suffix = os.path.splitext(name)
    if suffix in (".db3", ".bag"):
        return suffix
    return f".mcap{suffix}" if ".mcap." in name and suffix not in _OWN_SUFFIXES else ""


def _parts(top: str, path: str) -> Sequence[str]:
    """Return the names that lead from ``top`` to ``path``, which is ``top`` or lies below it."""
    return [part for part in os.path.relpath(path, top).split(os.sep) if part != os.curdir]


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a name matches any of the shell patterns."""
    alternatives = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    # An empty alternative would match each name. (?!) matches none.
    matches = re.compile(alternatives or r"(?!)").match
    return lambda name: matches(name) is not None
