"""Keystone Agent: uploads a robot's finished MCAP recordings to S3-compatible storage."""

__version__ = "0.1.1"

BUILD_DATE = "2026-11-28T00:00:00Z"  # no clock that is right says less
