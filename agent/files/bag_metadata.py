"""Opens the metadata.yaml that rosbag2 writes beside the files of a bag."""

from __future__ import annotations

import os
from pathlib import Path

from agent.files.below_root import open_regular_file
from agent.model.errors import RecordingError

BAG_METADATA = "metadata.yaml"

_MAX_BYTES = 16 * 1024 * 1024


def open_bag_metadata(path: Path, folder: int, *, follow_symlinks: bool) -> int:
    """Open the metadata at ``path``, whose open folder is ``folder``, for reading.

    Returns a descriptor, which the caller closes. The file has at most 16 MiB.

    Raises:
        RecordingError: The file is too large, the agent may not read it, or it is no regular file.
        OSError: It can't be opened. FileNotFoundError where there is none.
    """
    try:
        descriptor = open_regular_file(path, folder, follow_symlinks=follow_symlinks)
    except PermissionError as error:
        raise RecordingError(f"the agent may not read {path}", code="bag_metadata") from error
    if os.fstat(descriptor).st_size > _MAX_BYTES:
        os.close(descriptor)
        raise RecordingError(f"{path} is too large", code="bag_metadata")
    return descriptor
