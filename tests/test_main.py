"""The command `teleworkerd`: its flags, and what it finds when it only looks."""

import codecs
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teleworkerd import __version__, check
from teleworkerd.config import Config
from teleworkerd.daemon import control, supervisor
from teleworkerd.main import main
from teleworkerd.reserve import Room
from tests.e2e.pki import Certificates


@pytest.fixture
def flags(certs: Certificates, tmp_path: Path) -> list[str]:
    """Flags with which a daemon would start."""
    config = tmp_path / "teleworkerd.toml"
    config.write_text("")
    return [
        *("--config", str(config), "--listen", "127.0.0.1:0"),
        *("--state-dir", str(tmp_path / "state"), "--certs", str(certs.directory)),
    ]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What the daemon would be started with; it is not."""
    configs: list[Config] = []

    def run(config: Config, *, reload: Callable[[], Config]) -> int:
        configs.append(config)
        return 7

    monkeypatch.setattr(supervisor, "run", run)
    monkeypatch.setattr(os, "umask", lambda _: 0)
    return configs


@contextmanager
def another_account() -> Iterator[None]:
    """Be nobody for a while."""
    os.seteuid(65534)

    try:
        yield
    finally:
        os.seteuid(0)


def test_status_is_the_daemons(flags: list[str], started: list[Config]) -> None:
    """The exit status is that of the daemon, the settings are those of the flags."""
    status = main([*flags, "--log-level", "error", "--log-format", "json"])
    (config,) = started

    assert status == 7
    assert config.daemon.listen == "127.0.0.1:0"
    assert (config.daemon.log_level, config.daemon.log_format) == ("error", "json")


def test_flag_before_environment(
    flags: list[str], started: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag is stronger than the environment, which is stronger than the file."""
    Path(flags[1]).write_text("[daemon]\nlog_level = 'debug'\nlisten = 'x:1'\n")
    monkeypatch.setenv("TELEWORKERD_LISTEN", "y:2")
    monkeypatch.setenv("TELEWORKERD_LOG_LEVEL", "warning")
    main(flags)

    assert started[0].daemon.listen == "127.0.0.1:0"
    assert started[0].daemon.log_level == "warning"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon", "is not TOML"),
        ("[daemon]\nlistn = 'x:1'", "there is no setting 'listn'"),
        ("[server]\nhalf_open = 0", "half_open"),
        ("[jobs]\nlinger = 'long'", "linger"),
    ],
)
def test_bad_file(
    flags: list[str],
    started: list[Config],
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: str,
) -> None:
    """A bad setting is one line, 1, and nothing is started."""
    Path(flags[1]).write_text(text)
    status = main(flags)
    error = capsys.readouterr().err

    assert (status, started) == (1, [])
    assert error.startswith("teleworkerd: error: ")
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.parametrize(
    ("listen", "words"),
    [("nowhere", "not HOST:PORT"), ("127.0.0.1:99999", "HOST:PORT")],
)
def test_bad_address(
    flags: list[str], capsys: pytest.CaptureFixture[str], listen: str, words: str
) -> None:
    """So is a bad flag."""
    flags[flags.index("--listen") + 1] = listen

    assert main(flags) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listn", "x"],
        ["extra"],
        ["--log-level", "x"],
        ["reload", "--listen", "x:1"],
        ["reload", "extra"],
        ["--listen", "x:1", "reload"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Flags that do not exist, or are cut short, are 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_whole_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """No flag is missing in the usage, which is written by hand."""
    with pytest.raises(SystemExit):
        main(["--help"])

    usage, _, options = capsys.readouterr().out.partition("\n\n")
    flags = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", options, re.MULTILINE))

    assert len(flags) > 5
    assert flags - {"--help"} <= set(re.findall(r"--[\w-]+", usage))


def test_misspelt_reload(capsys: pytest.CaptureFixture[str]) -> None:
    """`reload` stands in the usage, and is guessed from what is near it."""
    with pytest.raises(SystemExit):
        main(["reloda"])

    error = capsys.readouterr().err
    assert "teleworkerd reload [--config FILE]" in error
    assert error.endswith("unrecognized arguments: reloda; did you mean reload?\n")


def test_reload(
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`reload` finds the daemon by the same settings, and says what was done."""
    asked: list[tuple[Path, bool]] = []

    def reload(state_dir: Path, *, restart_server: bool) -> str:
        asked.append((state_dir, restart_server))
        return "done"

    monkeypatch.setattr(control, "reload", reload)
    monkeypatch.setenv("TELEWORKERD_STATE_DIR", "/of/the/environment")

    assert main(["reload", *flags[:2], *flags[4:6]]) == 0
    assert main(["reload", *flags[:2], "--restart-server"]) == 0
    assert asked == [(Path(flags[5]), False), (Path("/of/the/environment"), True)]
    assert capsys.readouterr().out == "done\ndone\n"


def test_reload_of_nothing(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no daemon runs, or the configuration is wrong, it is one line, and 1."""
    assert main(["reload", *flags[:2], *flags[4:6]]) == 1
    assert "no teleworkerd runs on" in capsys.readouterr().err

    Path(flags[1]).write_text("[daemon")

    assert main(["reload", *flags[:2], *flags[4:6]]) == 1
    assert "is not TOML" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the package's."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == f"teleworkerd {__version__}\n"


def test_check(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A check that finds nothing wrong is 0, and makes nothing."""
    status = main([*flags, "--check"])
    lines = capsys.readouterr().out.splitlines()

    assert status == 0, lines
    limits = [line for line in lines if line[6:].startswith("limit ")]
    told = [line for line in lines if line not in limits]
    (warning,) = [line for line in told if not line.startswith("ok    ")]
    assert re.fullmatch(r"WARN  \S+/ca-key\.pem: who has this key .*", warning)
    assert [line[6:].partition(":")[0] for line in limits] == [
        f"limit {name}" for name in ("mem", "cpu", "io", "pids", "cpus")
    ]
    assert {line[6:].partition(":")[0] for line in told if line != warning} == {
        "listen",
        "certificates",
        "state directory",
        "cgroups",
        "server runs as",
        "jobs run as",
        "access",
        "isolation",
        "audit log",
        "open files",
    }
    assert not Path(flags[5]).exists()


def test_check_finds_all(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each thing that is wrong is a line of its own; one is enough for 1."""
    (tmp_path / "file").touch()
    flags[5] = str(tmp_path / "file" / "state")
    flags[7] = str(tmp_path)
    Path(flags[1]).write_text("[jobs]\nuser = 'no-such-user'\n")
    status = main([*flags, "--check"])
    wrong = [line for line in capsys.readouterr().out.splitlines() if "ERROR" in line]

    assert status == 1
    assert [line[6:].partition(":")[0] for line in wrong] == [
        "certificates",
        "state directory",
        "jobs run as",
    ]


def test_check_without_the_right_to_look(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state directory out of reach is a line, not a traceback."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    flags[5] = str(private / "state")

    codecs.lookup("idna")  # Python may be out of the reach of the other account

    with another_account():
        status = main([*flags[2:], "--check"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert [line for line in lines if line.startswith("ERROR state directory: ")]


def test_check_of_what_lies_above(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that is not there yet is looked for from above."""
    flags[5] = str(tmp_path / "a" / "b" / "c")
    main([*flags, "--check"])

    assert "ok    state directory: " in (out := capsys.readouterr().out)
    assert "(will be made)" in out
    assert not (tmp_path / "a").exists()


def test_check_of_a_key_that_does_not_fit(
    flags: list[str],
    certs: Certificates,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Certificates are loaded, not only looked for."""
    copy = tmp_path / "certs"
    shutil.copytree(certs.directory, copy)
    shutil.copy(copy / "alice-key.pem", copy / "server-key.pem")
    flags[7] = str(copy)

    assert main([*flags, "--check"]) == 1
    assert "is not the key of" in capsys.readouterr().out


def test_check_of_variables(
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A variable that means nothing is warned of."""
    monkeypatch.setenv("TELEWORKERD_LISEN", "x:1")

    assert main([*flags, "--check"]) == 0
    assert "WARN  TELEWORKERD_LISEN in the environment" in capsys.readouterr().out


def test_check_of_a_full_disk(
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Too little free is no reason not to start, but said."""
    monkeypatch.setattr(check, "room_at", lambda *_: Room(free=1024, floor=4096))

    assert main([*flags, "--check"]) == 0
    assert (
        "(will be made); 1 KiB are free on its disk, and no job is started with less"
        " than 4 KiB\n" in capsys.readouterr().out
    )
