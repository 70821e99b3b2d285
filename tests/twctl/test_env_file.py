"""Variables from a file, as `docker run --env-file` has them."""

import re
from pathlib import Path

import pytest

from twctl.parsing import read_env_file


ENVIRON = {b"HOME": b"/home/alice"}


def test_lines(tmp_path: Path) -> None:
    """Values are what stands after the first `=`; a name alone is copied."""
    file = tmp_path / "env"
    file.write_bytes(
        b'# a comment\n\nA=1\n  B="two words"\nC=a=b \nD=\nHOME\nNOWHERE\nE=\xff\r\n'
    )

    assert read_env_file(str(file), ENVIRON) == {
        b"A": b"1",
        b"B": b'"two words"',
        b"C": b"a=b ",
        b"D": b"",
        b"HOME": b"/home/alice",
        b"E": b"\xff",
    }


@pytest.mark.parametrize("line", [b"=1", b"two words=1", b"A=\0", b"export A=1"])
def test_no_variable(tmp_path: Path, line: bytes) -> None:
    """What is none is refused, with its place."""
    file = tmp_path / "env"
    file.write_bytes(b"A=1\n" + line + b"\n")

    with pytest.raises(ValueError, match=re.escape(f"{file}, line 2: ")):
        read_env_file(str(file), ENVIRON)


def test_no_file(tmp_path: Path) -> None:
    """A file that cannot be read is named, with the reason."""
    with pytest.raises(ValueError, match=r"none cannot be read: No such file"):
        read_env_file(str(tmp_path / "none"), ENVIRON)
