"""Keystone Agent: uploads a robot's finished MCAP recordings to S3-compatible storage."""

__version__ = "0.1.0"
