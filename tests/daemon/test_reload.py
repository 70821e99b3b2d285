"""When the configuration is read again: what is used, and what is told."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from teleworkerd.config import Config
from teleworkerd.daemon import reload
from teleworkerd.daemon.facts import DaemonFacts, DaemonState
from teleworkerd.daemon.reload import Reloading
from teleworkerd.settings import ConfigError, DaemonConfig, JobsConfig, MetricsConfig


class Scene:
    """A daemon without a server, and what it tells its service manager."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[str, ...]] = []
        self.done = asyncio.Event()
        self.facts = DaemonFacts(1, "", state=DaemonState.SERVING, status="fine")
        self.config = Config()
        self.servers = 1
        self.used: list[Config] = []
        self.audited: list[tuple[str, str, str | None]] = []
        self.audit = self
        self.next: Config | Exception = Config(jobs=JobsConfig(linger=7.0))
        servers = SimpleNamespace(settled=asyncio.Event(), is_serving=False)
        servers.settled.set()
        self.reloading = Reloading(
            self._read,
            keeper=self,  # type: ignore[arg-type]
            servers=servers,  # type: ignore[arg-type]
            report=self,  # type: ignore[arg-type]
        )
        monkeypatch.setattr(reload, "notify", lambda *told: self.told.append(told))
        monkeypatch.setattr(reload, "set_up", lambda **_: None)

    def configure(self, config: Config) -> None:
        """Be the keeper."""
        self.used.append(config)
        self.config = config

    def write(self, event: str, result: str, *, message: str | None) -> None:
        """Be the audit log."""
        self.audited.append((event, result, message))

    def note(self, **changes: Any) -> None:
        """Be the report."""
        self.facts = DaemonFacts(
            **{name: getattr(self.facts, name) for name in DaemonFacts.__slots__}
            | changes
        )

        if "reloads_done" in changes:
            asyncio.get_running_loop().call_soon(self.done.set)

    async def reload(self) -> str | None:
        """Reload; return why nothing has changed."""
        self.reloading.ask()

        async with asyncio.timeout(5):
            await self.done.wait()

        self.done.clear()
        return self.facts.reload_error

    def _read(self) -> Config:
        if isinstance(self.next, Exception):
            raise self.next

        return self.next


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A daemon that serves."""
    return Scene(monkeypatch)


async def test_reload(scene: Scene) -> None:
    """What was read is used; a manager is told of the beginning and the end."""
    assert await scene.reload() is None
    assert scene.used == [scene.next]
    assert scene.audited == [("reload", "ok", None)]
    begin, end = scene.told

    assert begin[0] == "RELOADING=1"
    assert end == ("READY=1", "STATUS=fine")


@pytest.mark.parametrize("error", [ConfigError("no"), RuntimeError("no")])
async def test_failure(scene: Scene, error: Exception) -> None:
    """A reload that fails ends too, whatever it was, and another can follow."""
    right, scene.next = scene.next, error

    assert await scene.reload()
    assert scene.used == []
    assert scene.told[-1][0] == "READY=1"
    assert "the configuration stays as it was: " in scene.told[-1][1]

    scene.next = right
    assert await scene.reload() is None


@pytest.mark.parametrize(
    "jobs", [JobsConfig(user="no-such"), JobsConfig(users={"alice": ("no-such",)})]
)
async def test_accounts(scene: Scene, jobs: JobsConfig) -> None:
    """Accounts that are not there are not used, and nothing beside them is."""
    scene.next = Config(jobs=jobs)

    assert "there is no Unix account 'no-such'" in (await scene.reload() or "")
    assert scene.used == []


async def test_unused(scene: Scene) -> None:
    """What is not used of a configuration is said once, with the reload itself."""
    scene.next = Config(
        daemon=DaemonConfig(listen="127.0.0.1:1"),
        metrics=MetricsConfig(listen="127.0.0.1:2"),
    )

    assert await scene.reload() is None
    assert scene.facts.reload_unused == (
        "listen stays 127.0.0.1:7443: 127.0.0.1:1 needs a restart; [metrics] listen is"
        " used by the next server; 'teleworkerd reload --restart-server' starts one"
    )

    scene.next = replace(scene.next, daemon=DaemonConfig())
    assert await scene.reload() is None
    assert "[metrics] listen is used by" in (scene.facts.reload_unused or "")

    scene.servers += 1
    assert await scene.reload() is None
    assert scene.facts.reload_unused is None


@pytest.mark.parametrize("state", [DaemonState.STOPPING, DaemonState.STAYING])
async def test_end(scene: Scene, state: DaemonState) -> None:
    """After the word that this is the end a manager is not told READY=1."""
    scene.note(state=state)

    assert await scene.reload() is None
    assert all(told.startswith("STATUS=") for (told,) in scene.told)
