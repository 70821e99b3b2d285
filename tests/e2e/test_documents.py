"""What the documents show is done as a reader would, and comes out as they say.

In a block `console` what stands behind `$ ` is typed at a terminal, and what stands
behind `# ` by root in a checkout on the worker; `^C` is Ctrl-C. What stands below a
command must be what is printed; where nothing does, the command must succeed. A block
`sh` is a script that must succeed, and a block `text` right below is what it prints.
In what is shown `…` is anything, and on a line of its own any lines.
"""

import os
import shutil
from itertools import pairwise
from typing import Final

import pytest

from tests.e2e.pki import ROOT
from tests.e2e.transcripts import Block, Command, Document, Language, Shown
from tests.e2e.waiting import wait_for
from tests.e2e.worker import CHECKOUT, Worker


pytestmark = [pytest.mark.cgroup, pytest.mark.slow, pytest.mark.timeout(300)]

DOCUMENTS: Final = {
    str(path.relative_to(ROOT)): Document.read(path)
    for pattern in ("*.md", "bench/*.md", "certs/*.md", "docs/*.md", "examples/*/*.md")
    for path in sorted(ROOT.glob(pattern))
}
RUN: Final = [name for name, document in DOCUMENTS.items() if document.blocks]

# Programs that are not on every machine, and who needs them.
NEEDED: Final = {
    "docs/recipes.md": "jq",
    "examples/node/README.md": "node",
}

# Blocks that are not run, by their document and first line, and why.
NOT_RUN: Final = {
    (
        "CONTRIBUTING.md",
        "$ make test     # .venv, dependencies and the tests",
    ): "it is what runs this",
    (
        "docs/recipes.md",
        "# Tell of each job that has ended, once.",
    ): "it goes on for ever; test_each_end runs it",
    (
        "docs/operations.md",
        "# cp docs/systemd/teleworker.{service,socket} /etc/systemd/system/",
    ): "it needs systemd; tests/test_units.py looks at the units",
}

# What is done in the place of a command: the programs are installed already, and there
# is neither a package index nor another machine.
ALICE: Final = "cp /etc/teleworker/certs/{ca,alice,alice-key}.pem ."
INSTALLED: Final = "teleworkerd --version"
INSTEAD: Final = {
    "make demo": f"{ROOT}/docs/demo.sh",
    "make test": "true",
    "python3 -m venv /opt/teleworker && /opt/teleworker/bin/pip install .": INSTALLED,
    "python3 -m venv ~/teleworker && ~/teleworker/bin/pip install ./TeleWorker": (
        "twctl --version"
    ),
    "/opt/teleworker/bin/teleworkerd --check": "teleworkerd --check",
    "scp 'root@worker.example.org:/etc/teleworker/certs/{ca,alice,alice-key}.pem' .": (
        ALICE
    ),
    "twctl tail --err build | less": "twctl tail --err build | cat",
}

# What the text has the reader do, or takes for granted, before a command.
NODE: Final = "node twclient.mjs --host worker.example.org:7443 --ca ca.pem"
BEFORE: Final = {
    "export TWCTL_HOST=worker.example.org:7443": f"{ALICE}; mkdir src",
    "./gen_certs.sh --host worker.example.org alice bob": f"cd {CHECKOUT}",
    NODE: f"{ALICE}; cp {ROOT}/examples/node/*.mjs .",
}

# What is typed, once something is printed, at commands that would go on for ever.
KEYS: Final = {
    "twctl top": ("COMMAND", "q"),
    "twctl run -f -it -- python3": (">>> ", "exit()\n"),
}

# What happens on the worker, once something is printed, while a command goes on.
MEANWHILE: Final = {
    "twctl tail -f count": ("line 2", "kill -9 $(cat /var/lib/teleworker/server.pid)"),
}


class Reader:
    """Goes through a document and does what it says."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._shown = Shown()

    def do(self, block: Block) -> None:
        """Do what stands in *block*."""
        if block.language is Language.SCRIPT:
            self._run(block)
        else:
            for command, after in pairwise([*block.commands(), None]):
                assert command is not None
                may_fail = after is not None and after.name == "echo $?"
                self._type(command, may_fail=may_fail)

    def _run(self, block: Block) -> None:
        printed, code = self._worker.script(self._shown.real(block.text))

        assert code == 0, f"{block.text}\nexit code {code}; it printed:\n{printed}"
        self._compare(block.text, printed, block.printed)

    def _type(self, command: Command, *, may_fail: bool) -> None:
        text = INSTEAD.get(command.name, self._shown.real(command.text))

        if command.is_root and text.startswith("teleworkerd --listen"):
            self._worker.start_daemon(text.strip())
            self._compare(text, self._worker.log(), command.shown or None)
            return

        for begin, before in BEFORE.items():
            if command.name.startswith(begin):
                self._worker.must(before)

        *pieces, last = command.pieces

        if command.name in MEANWHILE:
            self._worker.prepare(MEANWHILE[command.name][1])

        self._worker.type(f"(cd {CHECKOUT}; {text})" if command.is_root else text)

        for piece in pieces:
            self._worker.interrupt(self._shown.pattern(piece))

        if command.name in MEANWHILE:
            self._worker.go(MEANWHILE[command.name][0])

        if command.name in KEYS:
            self._worker.press(*KEYS[command.name])

        printed, code = self._worker.prompt()

        assert command.shown or may_fail or code == 0, f"{text}{code}: {printed}"
        self._compare(text, printed, last or None)

    def _compare(self, text: str, printed: str, shown: str | None) -> None:
        assert shown is None or self._shown.is_like(printed, shown), (
            f"{text}\nis to print:\n{shown}\nand printed:\n{printed}"
        )


def look_for(program: str) -> None:
    """Skip the test where *program* is missing; where everything must run, fail."""
    if shutil.which(program) is None:
        assert not os.environ.get("CI"), f"{program} is missing"
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("name", RUN)
def test_document(name: str) -> None:
    """Its blocks, one after the other, do what they say."""
    document = DOCUMENTS[name]
    look_for(NEEDED.get(name, "bash"))

    with Worker() as worker:
        if "# teleworkerd --listen" not in document.text:
            worker.serve_alice()

        reader = Reader(worker)

        for block in document.blocks:
            if (name, block.first) not in NOT_RUN:
                reader.do(block)


def recipe(words: str) -> str:
    """Return the recipe in which *words* stand."""
    blocks = DOCUMENTS["docs/recipes.md"].blocks
    [found] = [block.text for block in blocks if words in block.text]
    return found


def test_cancelled_step() -> None:
    """The recipe for CI stops its job when the step is cancelled."""
    step = recipe("CI_PIPELINE_ID").replace("-- make", "-- sh -c 'echo up; sleep 300'")

    with Worker() as worker:
        worker.serve_alice()

        with worker.running(step) as out:
            wait_for(lambda: "up" in out.read_text(), what="output")

        printed, _ = worker.do("twctl wait $(twctl list -aq)")
        assert printed == "143\n"


def test_each_end() -> None:
    """The recipe for events tells of each end once, whatever is restarted meanwhile."""
    look_for("jq")

    with Worker() as worker:
        worker.serve_alice()
        seen = worker.place.base / "home" / "seen"

        def end(name: str, code: int) -> str:
            """Have a job end; wait until that was dealt with."""
            worker.do(f"twctl run -f --name {name} -- sh -c 'exit {code}'")
            newest, _ = worker.do("twctl info -o json | jq -M .newest_event")
            wait_for(
                lambda: seen.exists() and seen.read_text() == newest,
                what=f"end of {name}",
            )
            return f"{name} has ended with {code}\n"

        with worker.running(recipe("events -f")) as out:
            told = end("first", 0)
            worker.must("kill -9 $(cat /var/lib/teleworker/server.pid)")
            told += end("second", 1)

        worker.do("twctl run -f --name third -- sh -c 'exit 2'")

        with worker.running(recipe("events -f")):
            told += "third has ended with 2\n" + end("fourth", 3)

        assert out.read_text() == told


def test_every_block_is_run() -> None:
    """What looks like commands is in a block that is run, or is named with why not."""
    blocks = {
        (name, block.first)
        for name, document in DOCUMENTS.items()
        for block in document.blocks
    }
    missed = [name for name, document in DOCUMENTS.items() if document.missed]

    assert set(NOT_RUN) - blocks == set()
    assert all(NOT_RUN.values())
    assert missed == []
