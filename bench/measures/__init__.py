"""One module for each group of measurements; `measure` returns its section."""
