"""The keeper: the small process that launches, feeds and buries jobs."""
