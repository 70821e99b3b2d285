"""The daemon as a whole: its server, its signals, and who it reports to."""
