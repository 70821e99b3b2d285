"""What type checkers are to see of the library; nothing here is run."""
