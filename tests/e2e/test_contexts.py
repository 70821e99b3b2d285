"""`twctl context`: servers by name, made, chosen, listed and removed."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.commandline import SCRIPT, Completed, call
from tests.e2e.daemon import Daemon, clean_environment
from tests.e2e.pki import Certificates


@dataclass(frozen=True, slots=True)
class Home:
    """Somebody's home, without any variable of ours."""

    path: Path
    daemon: Daemon
    certs: Certificates

    def __call__(self, *arguments: str) -> Completed:
        """Call `twctl` from there."""
        return call(*arguments, environment=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """What there is in the environment."""
        return clean_environment() | {
            "HOME": str(self.path),
            "XDG_CONFIG_HOME": str(self.path),
        }

    @property
    def files(self) -> list[str]:
        """The options for alice's files."""
        alice = self.certs.of("alice")
        return [
            *("--ca", str(self.certs.ca), "--cert", str(alice.cert)),
            *("--key", str(alice.key)),
        ]


@pytest.fixture
def home(tmp_path: Path, daemon: Daemon, certs: Certificates) -> Home:
    """Somebody's home."""
    return Home(tmp_path, daemon, certs)


def test_set_and_use(home: Home) -> None:
    """A context that was made is used at once, and by its name."""
    made = home("context", "set", "work", "--host", home.daemon.address, *home.files)
    other = home("context", "set", "far", "--host", "127.0.0.1:1", *home.files)
    unnamed = home("info")
    named = home("--context", "far", "info")
    chosen = home("context", "use", "far")
    then = home("info")

    assert (made.code, made.stderr, other.code, chosen.code) == (0, "", 0, 0)
    assert unnamed.code == 0
    assert (named.code, then.code) == (125, 125)
    assert "127.0.0.1:1" in named.error


def test_global_options_count(home: Home) -> None:
    """What stands before the verb is set too."""
    home("--host", home.daemon.address, *home.files, "context", "set", "work")

    assert home("info").code == 0


def test_list(home: Home) -> None:
    """The list has a star for the one in use; names alone, or JSON, for scripts."""
    home("context", "set", "b", "--host", "b:1")
    home("context", "set", "a", "--host", "a:1")

    assert home("context", "ls").stdout.decode().splitlines() == [
        "   NAME  HOST  CERT",
        "   a     a:1   -",
        "*  b     b:1   -",
    ]
    assert home("context", "ls", "-q").stdout == b"a\nb\n"
    assert home("context", "ls", "-o", "json").json[1] == {
        "schema": 1,
        "name": "b",
        "current": True,
        "host": "b:1",
        "ca": None,
        "cert": None,
        "key": None,
    }


def test_notices(home: Home) -> None:
    """What is still to be done for a context is said, and what goes before it."""
    made = home("context", "set", "a", "--host", "a:1", "--ca", "none.pem")
    environment = home.environment | {"TWCTL_HOST": "b:1"}
    used = call("context", "use", "a", environment=environment)
    removed = home("context", "rm", "a")

    assert "twctl: warning: ca " in made.stderr
    assert "none.pem does not exist yet" in made.stderr
    assert "context a has no cert, key yet" in made.stderr
    assert used.stderr == "twctl: TWCTL_HOST in the environment goes before it\n"
    assert "a was in use; 'twctl context use NAME'" in removed.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("context", "use", "x"), 125, "there is no context 'x'; there are: none"),
        (("context", "rm", "x"), 125, "there is no context 'x'"),
        (("context", "set", "x"), 2, "give what is to be set"),
        (("context", "set", "x", "--host", "a:b:c"), 125, "is not HOST:PORT"),
        (("context", "set", "a b", "--host", "a"), 125, "not the name of a context"),
        (("context", "nothing"), 2, "No such command 'nothing'"),
        (("--context", "x", "info"), 125, "there is no context 'x'"),
    ],
)
def test_mistakes(
    home: Home, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Each mistake has its line."""
    done = home(*arguments)

    assert done.code == code
    assert words in done.error


def test_no_place_for_the_file(home: Home) -> None:
    """Where contexts cannot be kept is named, and how to name another place."""
    environment = home.environment | {"XDG_CONFIG_HOME": "/proc/nosuch"}

    done = call("context", "set", "x", "--host", "a:1", environment=environment)

    assert done.code == 125
    assert "/proc/nosuch/twctl/config.toml cannot be written: No such" in done.error
    assert "XDG_CONFIG_HOME" in done.error


def test_directory_that_is_gone(home: Home) -> None:
    """A path from there cannot be made whole, and that is what is said."""
    gone = home.path / "gone"
    gone.mkdir()
    script = f'rmdir {gone}; exec "$@" context set x --ca ca.pem'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *SCRIPT],
        cwd=gone,
        env=home.environment,
        capture_output=True,
        check=False,
        text=True,
    )

    assert done.returncode == 125
    assert done.stderr == (
        "twctl: error: ca.pem: the directory where you are is gone; write the whole"
        " path\n"
    )


def test_environment_over_a_context(home: Home) -> None:
    """Variables come first; who names a context is told so when they say otherwise."""
    home("context", "set", "far", "--host", "127.0.0.1:1", *home.files)
    variable = {"TWCTL_HOST": home.daemon.address}

    named = call("--context", "far", "info", environment=home.environment | variable)
    unnamed = call("info", environment=home.environment | variable)

    assert named.code == unnamed.code == 0
    assert named.stderr == (
        "twctl: warning: TWCTL_HOST of the environment counts, not context 'far'\n"
    )
    assert unnamed.stderr == ""
