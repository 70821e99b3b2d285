"""A daemon whose port is looked at from outside."""

from tests.e2e.conftest import alice, daemon, root


__all__ = ["alice", "daemon", "root"]
