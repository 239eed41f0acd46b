"""Keystone Agent: uploads a robot's finished MCAP recordings to S3-compatible storage."""

__version__ = "0.1.1"

# A clock that shows an earlier time than this is wrong. A build writes the date of its commit here
# (deploy/debian/commit_date.py). The source itself has the date of the first commit.
BUILD_DATE = "2026-11-23T03:36:04Z"
