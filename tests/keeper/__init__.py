"""The keeper, alone and as a process."""
