"""The server: certificates, sessions, answers."""
