"""The server process: TLS, protocol and policy in front of the jobs."""
