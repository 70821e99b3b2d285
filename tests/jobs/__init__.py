"""Jobs as a library."""
