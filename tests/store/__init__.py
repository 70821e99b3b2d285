"""The records on disk, and what may go wrong with it."""
