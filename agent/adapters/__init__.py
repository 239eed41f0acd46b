"""One library or one outside thing each, behind a port; nothing is decided here."""

import os

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # read when it is loaded; what goes wrong is told once, by us
