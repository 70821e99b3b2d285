"""What keeps output and hands it to its readers."""
