"""What the machine can do at best: programs of their own, as small as they can be."""
