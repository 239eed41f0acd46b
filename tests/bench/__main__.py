"""The short measurements, one after the other: ``python -m tests.bench`` (`make bench`)."""

from __future__ import annotations

import subprocess
import sys

SHORT = (
    ["tests.bench.history"],
    ["tests.bench.uploads", "--recordings", "40", "--most-mib", "32"],
    ["tests.bench.link", "--mib", "256"],
    ["tests.bench.crowd"],
)


def main() -> int:
    """Run them all; 1 where one of them found less than is promised."""
    failed = [module for module, *options in SHORT if _run(module, *options) != 0]
    for module in failed:
        print(f"{module}: less than promised")
    return 1 if failed else 0


def _run(module: str, *options: str) -> int:
    print(f"\n== {module} {' '.join(options)}", flush=True)
    return subprocess.run([sys.executable, "-m", module, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
