"""Documents as they are read: blocks, the commands in them, and what they print."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self


FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT: Final = re.compile(r"^ *\$ \S|^```(?:bash|shell)", re.MULTILINE)
UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# What differs from one time to the next, and by what it is replaced.
VARYING: Final = {
    UUID: f"({UUID})",
    r"\b[0-9a-f]{8}-[0-9a-f]{3}\b": r"[0-9a-f]{8}-[0-9a-f]{3}",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z": (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"),
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT": (
        r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT"
    ),
    r"\b\d\d:\d\d:\d\d\b": r"\d\d:\d\d:\d\d",
    r"\[[#-]+\]": r"\[[#-]+\]",
    r"\b\d+(?:\.\d+)? (?:B|KiB|MiB|GiB)\b": r"\d+(?:\.\d+)? (?:B|KiB|MiB|GiB)",
    r"\b\d+\.\d+ s of CPU\b": r"\d+\.\d+ s of CPU",
    r"\b\d+(?:ms|s|m|h)\b": r"\d+(?:ms|s|m|h)",
    r"\b\d+%(?! of a share)": r"\d+%",
    r"\b\d+(?=/4096\b)": r"\d+",  # processes, at that moment
    r"(?<=pid:)\s+\d+": r"\s+\d+",
    r"(?<=load:)\s+[\d. ]+": r"\s+[\d. ]+",
    r"\b[0-9]+\.[0-9]+\.[0-9]+\b": r"\d+\.\d+\.\d+",
    r" {2,}": r"\s{2,}",
    "…": ".*",
}
ANY_OF: Final = re.compile("|".join(f"({one})" for one in VARYING))


class Language(StrEnum):
    """What is done with a block."""

    CONSOLE = "console"  # commands as typed, and what they print
    SCRIPT = "sh"
    TEXT = "text"


@dataclass(slots=True)
class Command:
    """What is typed, by whom, and what is to be printed."""

    text: str
    is_root: bool
    shown: str = ""

    @property
    def name(self) -> str:
        """It, without a comment behind it."""
        return re.sub(r"\s+#\s.*", "", self.text).strip()

    @property
    def pieces(self) -> list[str]:
        """What is to be printed, cut where Ctrl-C is pressed."""
        return re.split(r"^\^C(?=\n)", self.shown, flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A block that a reader would run."""

    language: Language
    text: str
    line: int
    printed: str | None = None  # by a script

    @property
    def first(self) -> str:
        """Its first line, by which it is called."""
        return self.text.partition("\n")[0]

    def commands(self) -> list[Command]:
        """Cut what is typed from what is printed."""
        commands: list[Command] = []

        for line in self.text.splitlines(keepends=True):
            if line.startswith(("$ ", "# ")):
                commands.append(Command(line[2:], is_root=line.startswith("#")))
            elif line.startswith("> "):
                commands[-1].text += line[2:]
            elif not re.match(r"\s+# ", line):  # a comment that goes on
                commands[-1].shown += line

        return commands


@dataclass(frozen=True, slots=True)
class Document:
    """A document, and what in it can be run."""

    blocks: list[Block]
    text: str
    missed: list[str]  # what looks like commands in other places

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it."""
        text = path.read_text("utf-8")
        blocks = []
        before = None

        for match in FENCE.finditer(text):
            language, content = match.groups()
            line = text.count("\n", 0, match.start()) + 1
            is_next = before is not None and not text[before : match.start()].strip()
            before = match.end()

            if language in (Language.CONSOLE, Language.SCRIPT):
                blocks.append(Block(Language(language), content, line))
            elif language == Language.TEXT and is_next and blocks:
                last = blocks.pop()
                blocks.append(Block(last.language, last.text, last.line, content))

        rest = FENCE.sub(
            lambda found: "" if found[1] == Language.CONSOLE else found[0], text
        )
        return cls(blocks, text, PROMPT.findall(rest))


class Shown:
    """Compares what is printed with what a document shows; knows which ID is which."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def real(self, text: str) -> str:
        """Return *text* with the IDs of this time for those in the document."""
        for shown, real in self._ids.items():
            text = text.replace(shown, real)

            for length in range(4, 9):
                text = re.sub(rf"\b{shown[:length]}\b", real[:length], text)

        return text

    def pattern(self, shown: str) -> str:
        """Return the pattern of what may be printed where *shown* stands."""
        return "".join(self._line(line) for line in shown.splitlines())

    def is_like(self, printed: str, shown: str) -> bool:
        """Whether *printed* is what *shown* says; note which ID stands for which."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
        printed = re.sub(r"[ \t]+$", "", plain, flags=re.MULTILINE)
        match = re.fullmatch(self.pattern(shown), printed)

        if match is None:
            return False

        self._ids |= dict(zip(re.findall(UUID, shown), match.groups(), strict=True))
        return True

    def _line(self, line: str) -> str:
        if line.strip() == "…":
            return r"(?:.*\n)*?"

        pattern, end = "", 0

        for found in ANY_OF.finditer(line.rstrip()):
            pattern += re.escape(line[end : found.start()])
            kind = [*VARYING][(found.lastindex or 1) - 1]
            known = self._ids.get(found[0])
            pattern += f"({known})" if known else VARYING[kind]
            end = found.end()

        return pattern + re.escape(line.rstrip()[end:]) + r"\n"
