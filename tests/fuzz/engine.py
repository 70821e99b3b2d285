"""The process that fuzzes: atheris drives the targets until it is told to end.

`python -m tests.fuzz.engine [options of libFuzzer] CORPUS`; `tests.fuzz` starts it.
"""

import importlib
import random
import sys
from typing import Any, Final


LONGEST: Final = 8192  # bytes of an input; more finds nothing that less does not
RAW: Final = 0.25  # of all changes: blindly, by libFuzzer
FRESH: Final = 0.5  # of the others: to an input of any target, not to what was chosen

_READERS: Final = (
    "teleworkerd.protocol",
    "teleworkerd.keeper.messages",
    "teleworkerd.keeper.orders",
)


def main(arguments: list[str]) -> None:
    """Fuzz; never returns."""
    atheris: Any = importlib.import_module("atheris")  # has no types, nor every Python

    # What is measured must be imported in here, and nowhere before.
    with atheris.instrument_imports(include=list(_READERS)):
        targets = importlib.import_module("tests.fuzz.targets")

    mutation = importlib.import_module("tests.fuzz.mutation")
    inputs = importlib.import_module("tests.fuzz.corpus").by_target()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)

        if rng.random() < RAW:
            changed: bytes = atheris.Mutate(data, max_size)
            return changed

        if rng.random() < FRESH:
            data = rng.choice(rng.choice(inputs))

        return bytes(mutation.mutated(data, rng)[:max_size])

    atheris.Setup(
        ["tests.fuzz", f"-max_len={LONGEST}", *arguments],
        targets.run,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
