"""docs/operations.md says all that there is to say, and nothing that is not so."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters, Refusal
from teleworkerd.metrics import Metrics, Sources
from tests.e2e.pki import ROOT


PAGE: Final = (ROOT / "docs" / "operations.md").read_text()
SECTIONS: Final = {item.name: getattr(Config(), item.name) for item in fields(Config)}


def rows(title: str) -> Iterator[list[str]]:
    """Yield the cells of the table below the heading *title*, but not its own."""
    _, _, rest = PAGE.partition(f"\n{title}\n")
    assert rest, title
    text, *_ = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)

    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def names(cell: str) -> list[str]:
    """Return what stands in backticks in *cell*."""
    return re.findall(r"`([^`]+)`", cell)


def test_sections() -> None:
    """Each section of the configuration has a heading, and no other has."""
    assert re.findall(r"^### `\[(\w+)\]`$", PAGE, re.MULTILINE) == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_settings(section: str) -> None:
    """The table of a section has each setting, in order, with its default."""
    told = {
        names(name)[0]: _value(names(default)[0])
        for name, default, *_ in rows(f"### `[{section}]`")
    }
    config = SECTIONS[section]
    there = {item.name: _plain(getattr(config, item.name)) for item in fields(config)}

    assert list(told.items()) == list(there.items())


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_have_a_meaning(section: str) -> None:
    """Whoever has a unit says so, and everybody means something."""
    for name, default, unit, meaning in rows(f"### `[{section}]`"):
        assert meaning, name
        assert bool(unit) == bool(re.fullmatch(r"`[\d.]+`", default)), name


def test_metrics(tmp_path: Path) -> None:
    """The table has each metric, in the order in which it comes, with its labels."""
    told = [
        (names(name)[0], kind, names(labels))
        for name, kind, labels, _ in rows("## Metrics")
        if not names(name)[0].endswith("*")
    ]

    assert told == list(_metrics(tmp_path))


def _metrics(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    counters = Counters()
    counters.requests["run", "ok"] = 1
    sources = Sources(
        manager=(),  # type: ignore[arg-type]  # no jobs
        counters=counters,
        connections=int,
        readings=(),
        state_dir=path,
        keeper_open_files=lambda: 7,
        keeper_pid=1,
        keeper_started_at=1,
        started_at=1,
        restarts=0,
    )

    for metric in Metrics(sources).collect():
        suffix = "_total" if metric.type == "counter" else ""
        labels = [name for name in metric.samples[0].labels if name != "le"]
        yield metric.name + suffix, metric.type, labels


def test_rules() -> None:
    """The rules for alerts use metrics that there are."""
    used = set(re.findall(r"\b(teleworker_\w+)[{\[ ]", PAGE))
    there = {names(row[0])[0] for row in rows("## Metrics")}
    there |= {f"{name}_bucket" for name in there}
    there |= {"teleworker_keeper_process_open_fds", "teleworker_keeper_process_max_fds"}

    assert used
    assert used <= there


def test_refusals() -> None:
    """The reasons for which clients are refused are those that there are."""
    [meaning] = (
        meaning
        for name, *_, meaning in rows("## Metrics")
        if names(name) == ["teleworker_refused_connections_total"]
    )

    assert names(meaning) == [str(reason) for reason in Refusal]


def test_messages() -> None:
    """What troubleshooting quotes is what the program says, but for what varies."""
    source = "".join(
        _joined(path.read_text()) for path in (ROOT / "teleworkerd").rglob("*.py")
    )

    for message, *_ in rows("## Troubleshooting"):
        # What OpenSSL or the kernel says is not ours.
        ours = re.split(r"client certificate refused: |: [A-Z]", names(message)[0])[0]

        for part in filter(None, map(str.strip, ours.split("…"))):
            assert part.strip(": ();") in source, part


def _joined(code: str) -> str:
    return re.sub(r'"\s*f?"', "", code)


def _value(text: str) -> Any:
    return tomllib.loads(f"value = {text}")["value"]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)

    return str(value) if isinstance(value, StrEnum) else value
