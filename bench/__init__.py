"""The benchmark: TeleWorker beside OpenSSH and beside what the machine can do."""
