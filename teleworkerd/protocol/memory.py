"""What malloc has to know about a program that moves output."""

from typing import Final


_LARGE: Final = 8 << 20  # bytes; far more than any chunk or frame


def expect_chunks() -> None:
    """Have malloc keep the memory of chunks, not give it back after each.

    glibc takes a block of more than 128 KiB from the kernel, and returns it when
    it is freed: page by page, new memory costs several times what copying a chunk
    into it does. Its threshold grows to the largest such block that was ever freed,
    and what it keeps at most is twice that. Other allocators take no harm.
    """
    bytes(_LARGE)
