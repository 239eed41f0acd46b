"""Imports minio without the part of it that administers a MinIO server.

That part needs a second library of ciphers, which costs 3 MiB of memory and 40 ms of each start.
The agent never uses it. Import this module before any other module that imports minio.
"""

from __future__ import annotations

import sys
from types import ModuleType

_ADMIN_MODULE = "minio.minioadmin"

if "minio" not in sys.modules:
    # While minio is imported, an empty module stands in the place of the unwanted one.
    _placeholder = ModuleType(_ADMIN_MODULE)
    _placeholder.MinioAdmin = None  # type: ignore[attr-defined] # minio imports this name
    sys.modules[_ADMIN_MODULE] = _placeholder
    import minio

    # A program that wants the real class can still import it from its own module.
    del sys.modules[_ADMIN_MODULE], minio.MinioAdmin
