"""What runs jobs: this machine, through the keeper."""
