"""Plans of these tests know nothing of the machine they run on."""

import pytest


@pytest.fixture(autouse=True)
def _no_outside(no_outside: None) -> None:
    """tests/places.py says what stays out."""
