"""A job's output: kept on disk, read by offset, fanned out to readers."""
