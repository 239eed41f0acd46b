"""Finds out whether a program has a file open for writing, and keeps writers away from a file.

The Linux kernel grants a read lease (``fcntl(2)``, F_SETLEASE) only on a file that no program has
open for writing. It grants one only to the owner of the file or to a process with CAP_LEASE, and
not on every file system. Where the kernel grants none for such a reason the answer is unknown.

On a network file system the server decides, and the kernel answers EAGAIN where the server lets it
decide nothing (nfs4_add_lease() and cifs_setlease() of Linux). There, EAGAIN is no writer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb2", "smb3", "ceph", "9p", "afs"})

_MOUNTS = Path("/proc/self/mountinfo")


def has_writer(path: Path) -> bool | None:
    """Return whether a program has the file at ``path`` open for writing.

    Returns None where the kernel does not tell.

    Raises:
        FileNotFoundError: The file is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        kept_out = keep_writers_out(descriptor)
    finally:
        os.close(descriptor)
    return None if kept_out is None else not kept_out


def is_open_for_writing(descriptor: int) -> bool:
    """Return whether the kernel shows that another program has this open file open for writing.

    Where the kernel does not tell, the answer is False. Writers are not kept out afterwards.
    """
    kept_out = keep_writers_out(descriptor)
    if kept_out:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return kept_out is False


def keep_writers_out(descriptor: int) -> bool | None:
    """Make programs that open the file for writing wait until ``descriptor`` is closed.

    Args:
        descriptor: The file, open for reading.

    Returns:
        True where writers are kept out now, False where a program has the file open for writing
        already, and None where the kernel does not tell.
    """
    try:
        # A writer that comes while the lease is held breaks the lease, and the kernel reports that
        # by a signal. The default signal, SIGIO, would end this process. SIGURG is ignored.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno != errno.EAGAIN or _is_on_network(descriptor):
            return None
        return False
    return True


def _is_on_network(descriptor: int) -> bool:
    """Return whether the open file lies on a network file system, by proc(5), mountinfo."""
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0] in _NETWORK_FILE_SYSTEMS
    return False
