"""What the daemon does as a whole, and what it tells others."""
