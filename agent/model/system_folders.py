"""The names of folders that belong to the system, and in which nobody keeps recordings."""

from __future__ import annotations

# Shell patterns. lost+found holds what fsck has saved, and only root may read it. The recycle bins
# are those of Windows, NAS systems, Samba and desktops. @eaDir holds a NAS's thumbnails.
SYSTEM_FOLDERS = (
    "lost+found",
    "$RECYCLE.BIN",
    "$Recycle.Bin",
    "RECYCLER",
    "#recycle",
    "@Recycle",
    ".recycle",
    ".Trash*",
    "@eaDir",
)
