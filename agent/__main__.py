"""Arguments in, exit code out: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import sys

from agent.cli import cli
from agent.edges.config import ConfigError
from agent.model.errors import AgentError


def main() -> None:
    """Run the command line; every expected failure is one clear message on standard error."""
    try:
        cli.main(prog_name="keystone-agent")
    except AgentError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - standard error is the place
        if error.hint:
            print(f"→ {error.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
