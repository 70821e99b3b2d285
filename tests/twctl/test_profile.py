"""Where a connection's settings come from."""

from pathlib import Path

import pytest

from twctl.profile import Profile, ProfileError, Settings, load_profile, split_address


CONFIG = """\
current = "work"

[contexts.work]
host = "work:1"
ca = "ca.pem"
cert = "/certs/work.pem"
key = "~/work-key.pem"

[contexts.home]
host = "home"
ca = "/h/ca"
cert = "/h/cert"
key = "/h/key"

[contexts.odd]
host = 7
"""

FILES = Settings(ca="/f/ca", cert="/f/cert", key="/f/key")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with two contexts."""
    (tmp_path / "twctl").mkdir()
    (tmp_path / "twctl" / "config.toml").write_text(CONFIG)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(environ: dict[str, str], text: str) -> Path:
    """Write the file of contexts, and return its path."""
    path = Path(environ["XDG_CONFIG_HOME"]) / "twctl" / "config.toml"
    path.write_text(text)
    return path


def test_current_context(environ: dict[str, str], tmp_path: Path) -> None:
    """Without flags and variables the current context counts, its files beside it."""
    assert load_profile(Settings(), environ=environ) == Profile(
        "work",
        1,
        tmp_path / "twctl" / "ca.pem",
        Path("/certs/work.pem"),
        Path("~/work-key.pem").expanduser(),
        Settings(*["context 'work'"] * 4),
    )


def test_named_context(environ: dict[str, str]) -> None:
    """--context is stronger than TWCTL_CONTEXT, and that than the current one."""
    by_flag = load_profile(Settings(), context="home", environ=environ)
    by_variable = load_profile(Settings(), environ={**environ, "TWCTL_CONTEXT": "home"})
    by_both = load_profile(
        Settings(), context="work", environ={**environ, "TWCTL_CONTEXT": "home"}
    )

    assert (by_flag.host, by_variable.host) == ("home", "home")
    assert by_both.host == "work"


def test_each_part_on_its_own(environ: dict[str, str]) -> None:
    """A flag is stronger than a variable, a variable than the context."""
    profile = load_profile(
        Settings(host="flag:2"),
        environ={**environ, "TWCTL_HOST": "variable:3", "TWCTL_CA": "/v/ca"},
    )

    assert (profile.host, profile.port) == ("flag", 2)
    assert profile.ca == Path("/v/ca")
    assert profile.cert == Path("/certs/work.pem")


def test_no_configuration_needed(tmp_path: Path) -> None:
    """Flags alone are enough."""
    flags = Settings("h:1").over(FILES)

    profile = load_profile(flags, environ={"XDG_CONFIG_HOME": str(tmp_path)})

    assert profile.address == "h:1"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (FILES, ["--host", "TWCTL_HOST", "--context"]),
        (Settings(host="h", ca="/ca"), ["--cert and --key", "certificate"]),
        (Settings(), ["--host, --ca, --cert and --key"]),
    ],
)
def test_missing_parts(tmp_path: Path, flags: Settings, words: list[str]) -> None:
    """The error says which flags and variables to set."""
    with pytest.raises(ProfileError) as error:
        load_profile(flags, environ={"XDG_CONFIG_HOME": str(tmp_path)})

    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ("none", "there are: home, odd, work; 'twctl context set"),
        ("odd", "odd.host is not text but int"),
    ],
)
def test_bad_context(environ: dict[str, str], context: str, words: str) -> None:
    """A context that is not there, or not right, is named."""
    with pytest.raises(ProfileError, match=words):
        load_profile(Settings(), context=context, environ=environ)


def test_current_context_that_is_gone(environ: dict[str, str]) -> None:
    """Who has removed the one in use is told how to use another."""
    write(environ, 'current = "works"\n[contexts.work]\nhost = "work"\n')

    with pytest.raises(
        ProfileError, match=r"'works' .*'work'\?.*; 'twctl context use "
    ):
        load_profile(Settings(), environ=environ)


def test_no_context_in_use(environ: dict[str, str]) -> None:
    """An empty name is none, and where there are none nobody is told to choose."""
    write(environ, 'current = ""\n')
    with pytest.raises(ProfileError, match=r"^no server given; "):
        load_profile(FILES, environ=environ)

    write(environ, 'current = "a"\n')
    with pytest.raises(ProfileError, match=r"there are: none; 'twctl context set a "):
        load_profile(FILES, environ=environ)


def test_contexts_that_are_none(environ: dict[str, str]) -> None:
    """What is no table is told as that, and not as a context that is missing."""
    write(environ, 'current = "a"\n[contexts]\na = 5\n')

    with pytest.raises(ProfileError, match=r"contexts is not a table of tables"):
        load_profile(FILES, environ=environ)


def test_part_that_a_context_lacks(environ: dict[str, str]) -> None:
    """It is missing from that context, and what may have been meant by it is said."""
    path = write(environ, 'current = "a"\n[contexts.a]\nhost = "a"\ncrt = "b"\n')

    with pytest.raises(ProfileError) as error:
        load_profile(Settings(ca="/ca", key="/key"), environ=environ)

    assert str(error.value) == (
        f"no certificate given, and none in context 'a' in {path}, where 'crt' means"
        " nothing (did you mean 'cert'?); use --cert, set TWCTL_CERT, or"
        " 'twctl context set a --cert FILE'"
    )


def test_misspelt_part(environ: dict[str, str]) -> None:
    """What looks like a part is warned of; notes of somebody's own are not."""
    path = write(environ, 'current = "a"\n[contexts.a]\nhots = "a"\nnote = "mine"\n')
    warnings: list[str] = []

    load_profile(
        Settings("h").over(FILES), context="a", environ=environ, warn=warnings.append
    )

    assert warnings == [
        f"context 'a' in {path}: 'hots' means nothing; did you mean 'host'?"
    ]


def test_who_gave_a_file(environ: dict[str, str]) -> None:
    """Messages name an option, a variable or a context, whichever gave the file."""
    profile = load_profile(
        Settings(ca="/f/ca"), environ={**environ, "TWCTL_CERT": "/v/cert"}
    )

    assert profile.file("ca") == "--ca /f/ca"
    assert profile.file("cert") == "cert /v/cert (TWCTL_CERT)"
    assert profile.file("key").endswith("/work-key.pem (context 'work')")


def test_who_gave_an_address(environ: dict[str, str]) -> None:
    """So does what is said of an address."""
    with pytest.raises(ProfileError, match=r"^'a:b:c' \(TWCTL_HOST\) is not HOST:PORT"):
        load_profile(FILES, environ={**environ, "TWCTL_HOST": "a:b:c"})


def test_context_without_configuration(tmp_path: Path) -> None:
    """Whoever names a context must have one, even if flags would do."""
    with pytest.raises(ProfileError, match="does not exist"):
        load_profile(
            Settings("h").over(FILES),
            context="x",
            environ={"XDG_CONFIG_HOME": str(tmp_path)},
        )


@pytest.mark.parametrize(
    ("value", "why"),
    [("x", ".*line 1.*"), ("9" * 5000, ".*digits.*"), ("[" * 5000, ".*recursion.*")],
    ids=["no value", "too long", "too deep"],
)
def test_configuration_that_is_not_toml(
    environ: dict[str, str], value: str, why: str
) -> None:
    """The error names the file and the place in it."""
    write(environ, f"current = {value}\n")

    with pytest.raises(ProfileError, match=f"toml is not TOML: {why}; mend it"):
        load_profile(Settings(), environ=environ)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", 7443),
        ("h:1", "h", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65_535),
        ("[::1]", "::1", 7443),
        ("[::1]:80", "::1", 80),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("büro.example.:1", "büro.example.", 1),
        ("a" * 63, "a" * 63, 7443),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    """The port may be left out, and IPv6 has brackets."""
    assert split_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":1", "h:", "h:0", "h:65536", "h:x", "::1", "[]", "a b:1", "a\n:1", "a\0b:1"],
)
def test_bad_addresses(text: str) -> None:
    """Anything else is refused, and the error shows the form."""
    with pytest.raises(ProfileError, match="HOST:PORT"):
        split_address(text)


@pytest.mark.parametrize(
    "text", ["ä..b", "a..b:1", "[a:b..c]:1", ".", "a" * 64, "ä" * 64, "a\udcff:1"]
)
def test_no_name(text: str) -> None:
    """What no resolver can be asked for is refused before it is asked."""
    with pytest.raises(ProfileError, match="has no host's name"):
        split_address(text)


def test_no_such_home(environ: dict[str, str]) -> None:
    """A home that nobody knows is told with the path that needs it."""
    with pytest.raises(
        ProfileError, match=r"^~nosuchuser/ca\.pem: there is no such home"
    ):
        load_profile(Settings("h").over(Settings(ca="~nosuchuser/ca.pem")).over(FILES))

    write(environ, 'current = "a"\n[contexts.a]\nca = "~nosuchuser/ca.pem"\n')
    with pytest.raises(ProfileError, match=r"^~nosuch\S+ \(context 'a'\): there is no"):
        load_profile(Settings("h"), environ=environ)

    with pytest.raises(ProfileError, match=r"^~nosuchuser/twctl/config\.toml: there"):
        load_profile(Settings(), environ={"XDG_CONFIG_HOME": "~nosuchuser"})


def test_address_of_a_profile() -> None:
    """An IPv6 address gets its brackets back."""
    assert Profile("::1", 1, Path(), Path(), Path()).address == "[::1]:1"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a b", "write it as worker.example.org:7443"),
        ("worker:99999", "a port, a number from 1 to 65535"),
        ("worker:", "a port, a number from 1 to 65535"),
        ("::1", r"write an IPv6 address as \[::1\]:7443"),
    ],
)
def test_hint_of_an_address(text: str, hint: str) -> None:
    """What is said to do fits what was written."""
    with pytest.raises(ProfileError, match=f"is not HOST:PORT; .*{hint}$"):
        split_address(text)
