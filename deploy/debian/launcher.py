#!/usr/bin/python3 -ISXfaulthandler
"""The command of the Debian package. It runs the agent with the libraries of the package alone."""

import os
import sys

LIBRARIES = "/opt/keystone-agent/lib"
PYTHON = "python{}.{}".format(*sys.version_info[:2])

if not os.path.isdir(f"{LIBRARIES}/{PYTHON}"):
    known = sorted(name for name in os.listdir(LIBRARIES) if name.startswith("python"))
    sys.exit(
        f"keystone-agent: this robot has {PYTHON}, the package is for {', '.join(known)}\n"
        "→ install a keystone-agent package for this robot's Python"
    )
sys.path[:0] = [f"{LIBRARIES}/{PYTHON}", f"{LIBRARIES}/common"]

from agent.__main__ import main

main()
