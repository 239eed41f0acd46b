"""Says what it means that a recording's own file can't be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.model.errors import AgentError
from agent.model.unforeseen import shortage


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let an error of the disk or of the rights leave the block as an error of this file.

    Such an error counts against the recording, and says nothing about the others. A lack of
    something on the robot, such as file descriptors, would meet them all, so it passes as it is.

    Raises:
        AgentError: ``io_error``, the file can't be read.
        OSError: The robot lacks something.
    """
    try:
        yield
    except OSError as error:
        if shortage(error):
            raise
        raise AgentError(
            f"{path} can't be read: {error.strerror or error}",
            code="io_error",
            hint="give the agent's user the right to read the file, or check this robot's disk",
        ) from error
