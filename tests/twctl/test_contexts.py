"""The file of contexts: what is written is read again, and the rest stays."""

import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twctl.contexts import ContextError, Contexts, read_contexts, write_contexts
from twctl.profile import ProfileError, Settings, load_profile


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.one_of(texts, st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.dates()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=5,
)
tables = st.dictionaries(texts, values, max_size=3)
WORK = Settings("work:1", "/ca", "/cert", "/key")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where there is no file yet."""
    return tmp_path / "config.toml"


@given(
    named=st.dictionaries(
        texts, st.dictionaries(texts, values, max_size=3), max_size=3
    ),
    rest=st.dictionaries(
        texts.filter(lambda key: key not in {"contexts", "current"}), values, max_size=3
    ),
    current=st.none() | texts,
)
def test_whatever_is_in_it(
    tmp_path_factory: pytest.TempPathFactory,
    named: dict[str, dict[str, object]],
    rest: dict[str, object],
    current: str | None,
) -> None:
    """All values come back, those of others too."""
    path = tmp_path_factory.mktemp("contexts") / "config.toml"
    contexts = Contexts(named, current, rest)

    write_contexts(path, contexts)

    assert read_contexts(path) == contexts


def test_first_is_used(path: Path) -> None:
    """The first context is the one in use, later ones are not."""
    contexts = Contexts().with_one("work", WORK).with_one("home", Settings("home"))
    write_contexts(path, contexts)

    assert tomllib.loads(path.read_text())["current"] == "work"
    assert path.stat().st_mode & 0o777 == 0o600


def test_part(path: Path) -> None:
    """What is not given of a context stays as it was."""
    contexts = Contexts().with_one("work", WORK).with_one("work", Settings("other:2"))

    assert contexts.settings("work", path) == Settings(
        "other:2", "/ca", "/cert", "/key"
    )


def test_used_by_calls(path: Path) -> None:
    """What was written is what calls find."""
    directory = path.parent / "twctl"
    directory.mkdir()
    write_contexts(directory / "config.toml", Contexts().with_one("work", WORK))
    environ = {"XDG_CONFIG_HOME": str(path.parent)}

    profile = load_profile(Settings(), environ=environ)

    assert (profile.address, profile.key) == ("work:1", Path("/key"))


def test_removed(path: Path) -> None:
    """When the one in use is removed, none is."""
    contexts = Contexts().with_one("work", WORK).without("work")
    write_contexts(path, contexts)

    assert read_contexts(path) == Contexts()


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 65])
def test_bad_name(name: str) -> None:
    """A name is one word."""
    with pytest.raises(ContextError, match="is not the name of a context"):
        Contexts().with_one(name, WORK)


@pytest.mark.parametrize("part", ["host", "ca", "cert", "key"])
def test_value_that_cannot_be_written(part: str) -> None:
    """What TOML cannot hold is refused by its name: the file would be lost."""
    with pytest.raises(ContextError, match=rf"^{part} '.*' is not valid UTF-8"):
        Contexts().with_one("work", Settings(**{part: "/tmp/\udcff"}))


def test_unknown() -> None:
    """One that is not there is told with those that are."""
    contexts = Contexts().with_one("work", WORK)

    with pytest.raises(ContextError, match=r"no context 'x'; there are: work; 'twctl"):
        contexts.using("x")


def test_link_to_another_file_system(path: Path) -> None:
    """A link stays one; that to which it leads is written, wherever that is."""
    with TemporaryDirectory(dir="/dev/shm") as elsewhere:
        real = Path(elsewhere) / "twctl.toml"
        path.symlink_to(real)

        write_contexts(path, Contexts().with_one("work", WORK))

        assert path.is_symlink()
        assert read_contexts(real).current == "work"
        assert [*path.parent.iterdir(), *real.parent.iterdir()] == [path, real]


def test_file_that_cannot_be_written(path: Path) -> None:
    """It is named, with what to do, and nothing is left beside it."""
    path.mkdir()

    with pytest.raises(ContextError, match=f"{path} cannot be written: Is a directory"):
        write_contexts(path, Contexts().with_one("work", WORK))

    assert [*path.parent.iterdir()] == [path]


def test_comments(path: Path) -> None:
    """Comments are lost in the file, and kept beside it."""
    before = '# mine\ncurrent = "a"\n[contexts.a]\nhost = "a"\n'
    path.write_text(before)

    kept = write_contexts(path, read_contexts(path).using("a"))

    assert kept is not None
    assert kept.read_text() == before
    assert read_contexts(path).current == "a"


@pytest.mark.parametrize(
    "text", ["contexts = 1", "[contexts]\na = 1", "current = 1", "="]
)
def test_broken(path: Path, text: str) -> None:
    """A file that is none of ours is left alone, and named."""
    path.write_text(text)

    with pytest.raises(ProfileError, match=str(path)):
        read_contexts(path)
