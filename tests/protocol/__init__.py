"""Tests of the protocol: bytes in, messages out, and protocol.md beside them."""
