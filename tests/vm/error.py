"""Why the tests did not run in a virtual machine."""


class VmError(Exception):
    """The machine could not do its work; the message says why, and what to do."""
