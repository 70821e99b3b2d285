"""Jobs as a library: states, owners, output; no network."""
