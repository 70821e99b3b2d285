"""The TeleWorker daemon; this package's own namespace holds the version only."""

__version__ = "0.1.0"
