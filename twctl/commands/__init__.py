"""One module for each verb; `twctl.cli` imports only the one that is asked for."""
