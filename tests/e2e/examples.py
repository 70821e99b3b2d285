"""The code in docstrings and in Markdown, and how it is run."""

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final


_BLOCK: Final = re.compile(r"::\n\n((?:[ ]{4}.*\n?|\n)+)")
_FENCE: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_AWAITS: Final = re.compile(r"\b(?:await|async for|async with)\b")


@dataclass(frozen=True, slots=True)
class Example:
    """A piece of code, and where it stands."""

    where: str
    code: str

    def __str__(self) -> str:
        return self.where

    @property
    def is_asynchronous(self) -> bool:
        """Whether it needs a loop that runs."""
        return "asyncio.run(" not in self.code and bool(_AWAITS.search(self.code))

    def run(self, names: dict[str, Any]) -> None:
        """Run it, synchronous as it is."""
        exec(compile(self.code, self.where, "exec"), names)

    async def run_async(self, names: dict[str, Any]) -> None:
        """Run it, with what it awaits."""
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(self.code, self.where, "exec", flags=flags)
        result = eval(code, names)

        if isinstance(result, Coroutine):
            async with asyncio.timeout(20):
                await result


def in_docstrings(name: str, subject: object) -> Iterator[Example]:
    """Return the examples of a module, class or function, and of its members."""
    for match in _BLOCK.finditer(inspect.getdoc(subject) or ""):
        yield Example(name, textwrap.dedent(match[1]))

    if inspect.isclass(subject):
        for member, value in vars(subject).items():
            if not member.startswith("_"):
                yield from in_docstrings(f"{name}.{member}", value)


def in_markdown(name: str, text: str) -> Iterator[Example]:
    """Return the examples of a document."""
    for match in _FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 2
        yield Example(f"{name}:{line}", match[1])
