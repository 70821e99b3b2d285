"""What stands between the jobs and the keeper."""
