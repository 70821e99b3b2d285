"""Settings: where they come from, and what is said of wrong ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from teleworkerd import config as config_module
from teleworkerd.config import Config, load, parse, unknown_variables
from teleworkerd.protocol.fields import dump
from teleworkerd.protocol.types import OnFull, Role
from teleworkerd.settings import (
    Address,
    ConfigError,
    DaemonConfig,
    OutputConfig,
    RetentionConfig,
    parse_address,
    show_size,
)


@pytest.fixture(autouse=True)
def no_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default file would be; this machine's own is not looked at."""
    path = tmp_path / "default.toml"
    monkeypatch.setattr(config_module, "DEFAULT_FILE", path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that sets the address and the level."""
    path = tmp_path / "some.toml"
    path.write_text('[daemon]\nlisten = "file:1"\nlog_level = "error"\n')
    return path


def test_defaults() -> None:
    """Without any setting the daemon is where the documentation says."""
    config = load(path=None, flags={}, environ={})

    assert config == Config()
    assert config.daemon.listen == "127.0.0.1:7443"
    assert config.database == Path("/var/lib/teleworker/jobs.sqlite")
    assert config.jobs_dir == Path("/var/lib/teleworker/jobs")
    assert config.certs == Path("/etc/teleworker/certs")
    assert config.jobs.user == "nobody"


def test_how_much_is_kept_by_default() -> None:
    """Nothing grows without a bound unless somebody wants it so."""
    config = Config()

    assert 0 < config.output.job_limit < config.output.owner_limit
    assert config.output.owner_limit < config.output.total_limit
    assert config.output.on_full is OnFull.BLOCK
    assert 0 < config.retention.bytes < config.output.owner_limit
    assert config.retention.age > 0
    assert config.retention.count > 0


def test_no_bounds(file: Path) -> None:
    """Zero takes a bound away."""
    file.write_text(
        "[output]\njob_limit = 0\nowner_limit = 0\ntotal_limit = 0\non_full = 'kill'\n"
        "[retention]\nage = 0\ncount = 0\nbytes = 0\ninterval = 1\n"
    )
    config = load(path=file, flags={}, environ={})

    assert config.output == OutputConfig(
        job_limit=0, owner_limit=0, total_limit=0, on_full=OnFull.KILL
    )
    assert config.retention == RetentionConfig(age=0, count=0, bytes=0, interval=1)


@pytest.mark.parametrize(
    ("flags", "environ", "listen"),
    [
        ({"listen": "flag:3"}, {"TELEWORKERD_LISTEN": "env:2"}, "flag:3"),
        ({}, {"TELEWORKERD_LISTEN": "env:2"}, "env:2"),
        ({}, {}, "file:1"),
    ],
)
def test_precedence(
    file: Path, flags: dict[str, str], environ: dict[str, str], listen: str
) -> None:
    """A flag goes before the environment, and that before the file."""
    config = load(path=file, flags=flags, environ=environ)

    assert config.daemon.listen == listen
    assert config.daemon.log_level == "error"


@pytest.mark.parametrize(
    "name", ["listen", "state_dir", "certs", "log_level", "log_format"]
)
def test_every_daemon_setting_has_a_variable(name: str) -> None:
    """Each setting of [daemon] can come from the environment."""
    value = {"listen": "h:1", "log_level": "debug", "log_format": "json"}.get(
        name, "/x"
    )
    config = load(path=None, flags={}, environ={f"TELEWORKERD_{name.upper()}": value})

    assert getattr(config.daemon, name) == value


def test_unknown_variables() -> None:
    """A variable that looks like a setting and is none is told of, with what may be."""
    environ = {"TELEWORKERD_LISEN": "h:1", "TELEWORKERD_LISTEN": "h:1", "LISTEN": "1"}

    (said,) = unknown_variables(environ)

    assert said.startswith("TELEWORKERD_LISEN in the environment means nothing;")
    assert said.endswith(" did you mean TELEWORKERD_LISTEN?")
    assert unknown_variables({"TELEWORKERD_JOB_MEM": "100"}) == [
        "TELEWORKERD_JOB_MEM in the environment means nothing"
    ]


def test_file_named_by_the_environment(file: Path) -> None:
    """TELEWORKERD_CONFIG names the file, unless the caller does."""
    environ = {"TELEWORKERD_CONFIG": str(file)}

    assert load(path=None, flags={}, environ=environ).daemon.listen == "file:1"

    with pytest.raises(ConfigError, match=r"missing\.toml does not exist"):
        load(path=file.with_name("missing.toml"), flags={}, environ=environ)


def test_default_file_is_read_when_it_is_there(no_default_file: Path) -> None:
    """The default file counts, and need not exist."""
    no_default_file.write_text("[jobs]\nuser = 'builder'\nusers = { alice = 'al' }\n")
    config = load(path=None, flags={}, environ={})

    assert config.jobs.accounts("alice") == ("al",)
    assert config.jobs.accounts("bob") == ("builder",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[demon]\n", r"some\.toml: there is no setting 'demon'; known are daemon, j"),
        ("[jobs]\nusr = 1\n", r"some\.toml: \[jobs\]: there is no setting 'usr'"),
        ("[jobs]\nuser = 1\n", r"some\.toml: jobs\.user: text expected, int found"),
        ("[jobs]\nlinger = '1'\n", r"jobs\.linger: a number expected, str found"),
        ("[jobs]\nlinger = true\n", r"jobs\.linger: a number expected, bool found"),
        ("[jobs]\nlinger = nan\n", r"jobs\.linger: nan is not finite"),
        ("[jobs]\nlinger = -0.5\n", r"jobs\.linger: -0\.5 is not from 0 to 86400"),
        ("[server]\nping_interval = 0\n", r"ping_interval must be more than 0 s"),
        ("[jobs.users]\nalice = 1\n", r"jobs\.users: an array expected, int found"),
        ("[output]\nchunk = 1.5\n", r"output\.chunk: an integer expected, float"),
        ("[output]\nchunk = 1\n", r"output\.chunk: 1 is not from 1024 to 262144"),
        ("[output]\nqueue_chunks = 0\n", r"output\.queue_chunks: 0 is not from 1"),
        ("[output]\njob_limit = -1\n", r"output\.job_limit: -1 is not from 0"),
        ("[output]\nwindow = 67108865\n", r"output\.window: 67108865 is not from 0"),
        ("[output]\non_full = 'stop'\n", r"output\.on_full: .*stop"),
        ("[output]\non_full = 1\n", r"output\.on_full: "),
        ("[retention]\nage = -1\n", r"retention\.age: -1\.0 is not from 0 to 316"),
        ("[retention]\ncount = 1.5\n", r"retention\.count: an integer expected"),
        ("[retention]\nbytes = '1G'\n", r"retention\.bytes: an integer expected"),
        ("[retention]\ninterval = 0\n", r"retention\.interval: 0\.0 is not from 1"),
        ("[retention]\nsize = 1\n", r"\[retention\]: there is no setting 'size'; know"),
        ("jobs = 3\n", r"some\.toml: jobs: a map expected, int found"),
        ("daemon = 3\n", r"some\.toml: daemon: a map expected, int found"),
        ("[daemon]\nlisten = 7443\n", r"daemon\.listen: text expected, int found"),
        ("[daemon]\nlisten = 'x'\n", r"listen address 'x' is not HOST:PORT"),
        ("[daemon]\nlog_level = 'loud'\n", r"log_level 'loud' is none of debug, info"),
        ("[daemon]\nlog_format = 'xml'\n", r"log_format 'xml' is none of text, json"),
        ('[audit]\nfile = "\\u0000"\n', r"audit file '.*' has a NUL"),
        ("[daemon\n", r"some\.toml is not TOML: "),
        (f"a = {'9' * 5000}\n", r"some\.toml is not TOML: "),
        (f"a = {'[' * 5000}\n", r"some\.toml is not TOML: "),
        ("a = '\udcff'\n", r"some\.toml is not TOML: "),
    ],
    ids=lambda text: text[:40],
)
def test_wrong_setting(file: Path, text: str, said: str) -> None:
    """What is wrong is named, with its place."""
    file.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(ConfigError, match=said):
        load(path=file, flags={}, environ={})


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory is no configuration file."""
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(path=tmp_path, flags={}, environ={})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("state_dir", "", "state_dir is empty; name a directory"),
        ("certs", "", "certs is empty; name a directory"),
        ("state_dir", "/\udcff", r"state_dir '/.*' has a NUL in it, or is not UTF-8"),
        ("certs", "/\0", r"certs '/.*' has a NUL"),
        ("listen", "\udcff:1", r"listen '.*:1' has a NUL in it, or is not UTF-8"),
    ],
)
def test_text_that_cannot_be(name: str, value: str, said: str) -> None:
    """Nothing is not the directory where we are, and the server is told in UTF-8."""
    with pytest.raises(ConfigError, match=said):
        load(path=None, flags={name: value}, environ={})


def test_wrong_flag(file: Path) -> None:
    """What a flag says is checked as what a file says."""
    with pytest.raises(ConfigError, match="listen address 'nowhere'"):
        load(path=file, flags={"listen": "nowhere"}, environ={})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7443", ("127.0.0.1", 7443)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::ffff:10.0.0.1]:1", ("::ffff:10.0.0.1", 1)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    """An address is host and port, and prints as it was written."""
    assert parse_address(text) == address
    assert str(Address(*address)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":1",
        "host:",
        "host:65536",
        "host:99999999",
        "host:-1",
        "host:1 ",
        "host:1\n",
        "ho st:1",
        "host:７",  # noqa: RUF001  a digit that is none
        "::1:7443",
        "[::1]",
        "[]:1",
        "[host]:1",
        "[::1:1",
        "http://host:1",
    ],
)
def test_bad_address(text: str) -> None:
    """What is no address is refused, and shown."""
    with pytest.raises(ConfigError, match=r"listen address .* is not HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"daemon": {"state_dir": "/xä", "listen": "[::1]:1"}},
        {"jobs": {"users": {"alice": "al"}, "linger": 0}},
        {"output": {"on_full": "drop", "job_limit": 0}, "retention": {"age": 0.5}},
    ],
)
def test_configuration_travels_as_json(settings: dict[str, Any]) -> None:
    """A configuration is the same on the other side of a command line."""
    config = parse(settings)

    assert parse(json.loads(json.dumps(dump(config)))) == config


def test_configuration_in_code_is_checked() -> None:
    """A setting is checked wherever it comes from."""
    with pytest.raises(ConfigError, match="log_level"):
        DaemonConfig(log_level="loud")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1000, "1000 bytes"),
        (1024, "1 KiB"),
        (1536, "1536 bytes"),
        (3 << 19, "1536 KiB"),
        (64 << 30, "64 GiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    """Sizes are exact, in the largest unit that needs no fraction."""
    assert show_size(count) == text


@pytest.mark.parametrize(("count", "length"), [(9000, 8), (6000, 64)])
def test_too_much(count: int, length: int) -> None:
    """What the keeper could not tell the server is refused at once."""
    names = [f"{number:0{length}}" for number in range(count)]
    settings = {
        "access": {"deny": names, "viewer": names},
        "jobs": {"users": {name: ["a", "b"] for name in names}},
    }

    with pytest.raises(ConfigError, match="are too many, or too long"):
        parse(settings)


def test_access() -> None:
    """Roles and accounts are read as lists; one account may stand alone."""
    config = parse(
        {
            "access": {"admin": ["ops-*"], "default": "viewer"},
            "jobs": {"users": {"alice": "al", "bob": ["b", "build"]}},
        }
    )

    assert config.access.role("ops-1") is Role.ADMIN
    assert config.access.role("bob") is Role.VIEWER
    assert config.jobs.accounts("alice") == ("al",)
    assert config.jobs.accounts("bob") == ("b", "build")
    assert config.jobs.accounts("carol") == ("nobody",)
