"""The protocol of protocol.md, without any I/O: both sides are built on it."""
