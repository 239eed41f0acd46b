"""Keystone Agent: uploads a robot's finished MCAP recordings to S3-compatible storage."""

__version__ = "0.1.1"

# A clock that shows an earlier time than this is wrong.
BUILD_DATE = "2026-11-28T00:00:00Z"
