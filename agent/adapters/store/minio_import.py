"""Imports minio without its client for administrators: a second library of ciphers, 3 MiB, and 40 ms of each start."""

from __future__ import annotations

import sys
from types import ModuleType

_NAME = "minio.minioadmin"

if "minio" not in sys.modules:
    _nothing = ModuleType(_NAME)
    _nothing.MinioAdmin = None  # type: ignore[attr-defined] # minio asks for this name
    sys.modules[_NAME] = _nothing
    import minio

    del sys.modules[_NAME], minio.MinioAdmin  # who wants it imports it from its own module
