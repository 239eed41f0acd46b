"""Explains why the embedded cloud of `demo` and `devcloud` can't start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def start_errors_explained() -> Iterator[None]:
    """Turn each expected error of starting the embedded cloud into one line for the operator."""
    # The embedded cloud is an extra of the package, whose libraries may be missing.
    from agent.devcloud.servers import ServerError  # noqa: PLC0415 - see above

    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise click.ClickException(
            f"{package} is not installed: pip install 'keystone-agent[devcloud]'"
        ) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(
            f"the embedded cloud can't start: {where}{error.strerror or error}"
        ) from error
    except ServerError as error:
        raise click.ClickException(f"the embedded cloud can't start: {error}") from error
    except ValueError as error:
        raise click.ClickException(
            f"the embedded cloud can't use what is in its folder: {error}"
        ) from error
