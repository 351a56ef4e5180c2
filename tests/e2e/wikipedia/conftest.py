"""The fixtures of tests/wikipedia."""

from tests.wikipedia.conftest import made, short_waits, site, site_root

__all__ = ["made", "short_waits", "site", "site_root"]
