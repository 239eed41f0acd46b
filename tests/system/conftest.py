"""Gives all tests of this folder the marker ``system``, and more time than other tests."""

from __future__ import annotations

from pathlib import Path

import pytest

# The first test that needs a Debian system waits until it is made.
_TIMEOUT_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder. pytest passes the tests of all folders."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.system)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS))
