"""The exception with which tests let the power of a robot fail."""

from __future__ import annotations


class PowerFailure(BaseException):
    """The power fails. No handler of the agent catches this exception."""
