"""What gen_certs.sh makes, and what it leaves alone."""

import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from teleworkerd.certfiles import read_files
from teleworkerd.server.material import check_material, read_material


SCRIPT = Path(__file__).resolve().parent.parent / "gen_certs.sh"
DEADLINE = 30.0  # seconds for one run, which takes a third of one

Context = Callable[[Path], ssl.SSLContext]


def gen_certs(
    directory: Path, *args: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script on *directory* in a process group of its own."""
    environment = os.environ | ({} if path is None else {"PATH": path})
    return subprocess.run(
        [SCRIPT, "--dir", directory, *args],
        capture_output=True,
        check=False,
        cwd="/",
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=DEADLINE,
    )


def make(directory: Path, *args: str) -> str:
    """Run the script, which must succeed, and return what it printed."""
    result = gen_certs(directory, *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


def openssl(*args: str | Path) -> str:
    """Return what an openssl command prints."""
    return subprocess.run(
        ["openssl", *args], capture_output=True, check=True, text=True
    ).stdout


def serial(certificate: Path) -> str:
    """Return a certificate's serial number, in hexadecimal."""
    return openssl("x509", "-in", certificate, "-noout", "-serial")


def contents(directory: Path) -> dict[str, bytes]:
    """Return what the visible files of *directory* hold."""
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()
    }


def server_context(certs: Path) -> ssl.SSLContext:
    """Return a strict server's context which wants a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cafile=certs / "ca.pem")
    context.load_cert_chain(certs / "server.pem", certs / "server-key.pem")
    if (certs / "crl.pem").exists():
        context.load_verify_locations(cafile=certs / "crl.pem")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def client_context(certs: Path, name: str = "client") -> ssl.SSLContext:
    """Return a strict client's context which shows the certificate of *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cafile=certs / "ca.pem")
    context.load_cert_chain(certs / f"{name}.pem", certs / f"{name}-key.pem")
    return context


def shake_hands(
    certs: Path, *, name: str = "client", host: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return a client and a server after their handshake, or raise SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(certs, name).wrap_bio(
        to_client, to_server, server_hostname=host
    )
    server = server_context(certs).wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    return client, server


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a first run without arguments makes; tests only read it."""
    directory = tmp_path_factory.mktemp("certs")
    make(directory)
    return directory


@pytest.fixture
def made(certs: Path, tmp_path: Path) -> Path:
    """A copy of the default set, to be changed."""
    return shutil.copytree(certs, tmp_path / "made")


def test_default_set(certs: Path) -> None:
    """A first run makes an authority, a server and one user called client."""
    expected = {
        f"{name}{suffix}"
        for name in ("ca", "server", "client")
        for suffix in (".pem", "-key.pem")
    }

    assert expected == set(contents(certs))


def test_keys_are_private(certs: Path) -> None:
    """Only their owner reads keys; everybody reads certificates."""
    modes = {path.name: path.stat().st_mode & 0o777 for path in certs.glob("*.pem")}

    assert {0o600} == {mode for name, mode in modes.items() if "-key" in name}
    assert {0o644} == {mode for name, mode in modes.items() if "-key" not in name}


def test_strict_handshake_names_the_user(certs: Path) -> None:
    """A strict TLS 1.3 server learns the user's name from the certificate."""
    client, server = shake_hands(certs)

    assert client.version() == "TLSv1.3"
    assert server.version() == "TLSv1.3"
    peer = server.getpeercert()
    assert peer is not None
    assert peer["subject"] == ((("commonName", "client"),),)


def test_both_directions_carry_bytes(certs: Path) -> None:
    """After the handshake, both sides write and the other side reads."""
    client, server = shake_hands(certs)

    server.write(b"hello")
    client.write(b"run")

    assert client.read() == b"hello"
    assert server.read() == b"run"


def test_daemon_takes_them(made: Path) -> None:
    """The daemon finds nothing wrong with what was made, with a list or without."""
    now = time.time()
    check_material(read_material(read_files(made)), now)
    make(made, "--renew-crl")

    check_material(read_material(read_files(made)), now)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_default_hosts(certs: Path, host: str) -> None:
    """Without --host the server is known by the names of loopback."""
    shake_hands(certs, host=host)


def test_other_hosts_are_refused(certs: Path) -> None:
    """A client that asked for another host refuses the server."""
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(certs, host="example.org")


@pytest.mark.parametrize("context", [server_context, client_context])
def test_each_certificate_has_one_use(
    certs: Path, tmp_path: Path, context: Context
) -> None:
    """The server's certificate is no user's, and a user's is no server's."""
    swapped = shutil.copytree(certs, tmp_path / "swapped")
    mine, other = (
        ("server", "client") if context is server_context else ("client", "server")
    )
    for suffix in (".pem", "-key.pem"):
        shutil.copy(certs / (other + suffix), swapped / (mine + suffix))

    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(swapped)


@pytest.mark.parametrize(
    ("name", "extensions"),
    [
        ("ca", ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign"]),
        ("server", ["CA:FALSE", "Digital Signature", "TLS Web Server Auth"]),
        ("client", ["CA:FALSE", "Digital Signature", "TLS Web Client Auth"]),
    ],
)
def test_extensions(certs: Path, name: str, extensions: list[str]) -> None:
    """Each certificate says what it is for, in critical extensions, on P-256."""
    text = openssl("x509", "-in", certs / f"{name}.pem", "-noout", "-text")

    assert [extension for extension in extensions if extension not in text] == []
    assert "Basic Constraints: critical" in text
    assert "Key Usage: critical" in text
    assert "Subject Key Identifier" in text
    assert "NIST CURVE: P-256" in text


def test_validity_starts_in_the_past(certs: Path) -> None:
    """A reader whose clock is a little behind accepts a new certificate."""
    line = openssl("x509", "-in", certs / "client.pem", "-noout", "-startdate")
    start = ssl.cert_time_to_seconds(line.strip().removeprefix("notBefore="))
    made = (certs / "client.pem").stat().st_mtime

    assert 240 < made - start < 360


def test_days(tmp_path: Path) -> None:
    """--days sets how long a certificate is valid; the authority outlives it."""
    make(tmp_path, "--days", "5000")

    for name in ("client", "server", "ca"):
        line = openssl("x509", "-in", tmp_path / f"{name}.pem", "-noout", "-enddate")
        end = ssl.cert_time_to_seconds(line.strip().removeprefix("notAfter="))
        assert 4999 < (end - time.time()) / 86_400 <= 5000


@pytest.mark.slow
def test_hosts_replace_the_default(tmp_path: Path) -> None:
    """Every --host, and no other, is in the server's certificate."""
    hosts = ["box.example.org", "10.1.2.3", "fe80::1"]
    make(tmp_path, *[f"--host={host}" for host in hosts])

    for host in hosts:
        shake_hands(tmp_path, host=host)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, host="localhost")


def test_second_run_changes_nothing(made: Path) -> None:
    """What is complete is left alone, and said so in one line each."""
    before = contents(made)
    printed = make(made)

    assert before == contents(made)
    assert [line.partition(",")[0] for line in printed.splitlines()] == [
        "ca: kept",
        "server: kept",
        "client: kept",
    ]


@pytest.mark.slow
def test_more_users_later(tmp_path: Path) -> None:
    """A later run adds users to the same authority and touches nobody else."""
    make(tmp_path, "alice")
    before = contents(tmp_path)
    make(tmp_path, "bob@example.org", "carol")

    assert before.items() <= contents(tmp_path).items()
    for name in ("alice", "bob@example.org", "carol"):
        shake_hands(tmp_path, name=name)


@pytest.mark.parametrize("name", ["ca", "server", "client"])
def test_missing_certificate_is_made_for_the_same_key(made: Path, name: str) -> None:
    """A key without its certificate gets a new one; the others stay valid."""
    before = contents(made)
    (made / f"{name}.pem").unlink()
    make(made)

    after = contents(made)
    assert before.pop(f"{name}.pem") != after.pop(f"{name}.pem")
    assert before == after
    shake_hands(made)


def test_missing_key_makes_a_new_pair(made: Path) -> None:
    """A user whose key is gone gets a new key, with a word about the old one."""
    (made / "client-key.pem").unlink()
    result = gen_certs(made)

    assert "the old stay valid until revoked" in result.stderr
    shake_hands(made)


def test_authority_without_its_key_signs_nothing(made: Path) -> None:
    """An authority's lost key is an error; a second authority is not made."""
    (made / "ca-key.pem").unlink()
    before = contents(made)
    result = gen_certs(made, "bob")

    assert result.returncode == 1
    assert "bring the key back" in result.stderr
    assert before == contents(made)


def test_complete_set_needs_no_authority_key(made: Path) -> None:
    """With nothing to sign, the authority's key may be somewhere safe."""
    (made / "ca-key.pem").unlink()

    make(made)


@pytest.mark.parametrize("damage", ["other key", "other authority", "not PEM"])
def test_broken_pair_is_named(made: Path, damage: str) -> None:
    """A pair that cannot work is left as it is, with a warning what to do."""
    make(made, "client", "alice")
    if damage == "other key":
        shutil.copy(made / "alice.pem", made / "client.pem")
    elif damage == "other authority":
        for name in ("ca.pem", "ca-key.pem"):
            (made / name).unlink()
    else:
        (made / "client.pem").write_text("not a certificate")
    before = contents(made)
    result = gen_certs(made)

    assert result.returncode == 0
    assert "warning: client: kept, but" in result.stderr
    assert "remove client.pem" in result.stderr
    assert before.items() <= contents(made).items()


def test_host_missing_from_kept_server_is_named(made: Path) -> None:
    """A --host which the present server certificate lacks is not ignored."""
    result = gen_certs(made, "--host", "::1", "--host", "box")

    assert "not for box: remove server.pem" in result.stderr
    assert "::1" not in result.stderr


@pytest.mark.slow
def test_revoked_user_is_refused(made: Path) -> None:
    """A server with the list refuses the revoked user and admits the other."""
    make(made, "alice", "bob")
    make(made, "--revoke", "alice")

    shake_hands(made, name="bob")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(made, name="alice")


@pytest.mark.slow
def test_revocations_add_up(made: Path) -> None:
    """The list keeps who was revoked before, and says until when it is good."""
    make(made, "alice", "bob")
    serials = [serial(made / f"{name}.pem") for name in ("alice", "bob")]
    make(made, "--revoke", "alice")
    make(made, "--revoke", "bob")
    make(made, "--revoke", "alice")

    text = openssl("crl", "-in", made / "crl.pem", "-noout", "-text")
    assert text.count("Serial Number") == 2
    for number in serials:
        assert number.strip().removeprefix("serial=") in text
    assert "Next Update: NONE" not in text


@pytest.mark.slow
def test_list_is_renewed(made: Path) -> None:
    """--renew-crl writes the list anew: it revokes who was revoked, and ends later."""
    make(made, "alice", "bob")
    make(made, "--revoke", "alice")
    shorten(made)
    before = contents(made)
    printed = make(made, "--renew-crl")

    assert printed.startswith("crl.pem: valid until ")
    assert list_end(made) > time.time() + 3600 * 86_400
    assert {name for name, data in contents(made).items() if before[name] != data} == {
        "crl.pem"
    }
    shake_hands(made, name="bob")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(made, name="alice")


def shorten(directory: Path) -> None:
    """Have the list of *directory* end tomorrow."""
    script = SCRIPT.read_text().replace("CRL_DAYS=3650", "CRL_DAYS=1")
    shortened = directory.parent / "shortened.sh"
    shortened.write_text(script)
    subprocess.run(
        ["bash", shortened, "--dir", directory, "--renew-crl"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=DEADLINE,
    )
    assert list_end(directory) < time.time() + 2 * 86_400


def list_end(directory: Path) -> float:
    """Return until when the list of *directory* is good."""
    line = openssl("crl", "-in", directory / "crl.pem", "-noout", "-nextupdate")
    return ssl.cert_time_to_seconds(line.strip().removeprefix("nextUpdate="))


def test_empty_list(made: Path) -> None:
    """Where there was no list, --renew-crl makes one that revokes nobody."""
    make(made, "--renew-crl")

    shake_hands(made)
    text = openssl("crl", "-in", made / "crl.pem", "-noout", "-text")
    assert "No Revoked Certificates" in text


def test_list_without_an_authority(tmp_path: Path) -> None:
    """--renew-crl in an empty directory is an error and makes nothing."""
    result = gen_certs(tmp_path, "--renew-crl")

    assert result.returncode == 1
    assert "there is no certificate authority" in result.stderr
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_revoking_covers_earlier_certificates(made: Path) -> None:
    """All of a user's certificates are revoked, the replaced ones as well."""
    make(made, "alice")
    old = contents(made)
    for name in ("alice.pem", "alice-key.pem"):
        (made / name).unlink()
    make(made, "alice")
    make(made, "--revoke", "alice")
    for name in ("alice.pem", "alice-key.pem"):
        (made / name).write_bytes(old[name])

    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(made, name="alice")


@pytest.mark.slow
def test_revoked_user_returns_with_a_new_pair(made: Path) -> None:
    """After a revocation the files stay; removed, they are made anew and good."""
    make(made, "alice")
    make(made, "--revoke", "alice")
    kept = gen_certs(made, "alice")
    for name in ("alice.pem", "alice-key.pem"):
        (made / name).unlink()
    make(made, "alice")

    assert "it is revoked: remove alice.pem and alice-key.pem" in kept.stderr
    shake_hands(made, name="alice")


@pytest.mark.slow
def test_revoking_without_the_records(made: Path) -> None:
    """Without the hidden records a present certificate can still be revoked."""
    make(made, "alice", "bob")
    shutil.rmtree(made / ".ca")
    make(made, "--revoke", "alice")

    shake_hands(made, name="bob")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
        shake_hands(made, name="alice")


@pytest.mark.slow
def test_no_revocation_is_ever_dropped(made: Path) -> None:
    """A list which would forget an earlier revocation is not written."""
    make(made, "alice", "bob")
    make(made, "--revoke", "alice")
    shutil.rmtree(made / ".ca")
    before = contents(made)
    result = gen_certs(made, "--revoke", "bob")

    assert result.returncode == 1
    assert "bring .ca back" in result.stderr
    assert before == contents(made)


def test_revoking_makes_nothing_else(tmp_path: Path) -> None:
    """--revoke in an empty directory is an error and makes no authority."""
    result = gen_certs(tmp_path, "--revoke", "alice")

    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "args",
    [
        ["ca"],
        ["server"],
        ["crl"],
        ["alice-key"],
        [""],
        ["-alice"],
        [".alice"],
        ["../alice"],
        ["al ice"],
        ["alice\n"],
        ["alice/CN=root"],
        ["älice"],
        ["a" * 65],
        ["--revoke", "server"],
        ["--revoke", ".."],
        ["--host", "a,DNS:b"],
        ["--host", "1.2.3"],
        ["--host", "256.1.1.1"],
        ["--host", "1::2::3"],
        ["--host", "a..b"],
        ["--host", ""],
        ["--days", "0"],
        ["--days", "-1"],
        ["--days", "1.5"],
        ["--days", "99999"],
        ["--days"],
        ["--dir", ""],
        ["--frobnicate"],
    ],
    ids=repr,
)
def test_bad_input(tmp_path: Path, args: list[str]) -> None:
    """Bad input is one line on stderr and exit 2, before anything is made."""
    result = gen_certs(tmp_path / "certs", *args)

    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("gen_certs.sh: error: ")
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("name", ["a", "a" * 64, "A.b_c-d@e.f"])
def test_good_names(tmp_path: Path, name: str) -> None:
    """Names up to the length that certificates allow become the CN."""
    make(tmp_path, name)

    _, server = shake_hands(tmp_path, name=name)
    peer = server.getpeercert()
    assert peer is not None
    assert ((("commonName", name),),) == peer["subject"]


def test_directory_with_odd_name(tmp_path: Path) -> None:
    """The directory is made, whatever its name."""
    directory = tmp_path / "not yet" / "-it's $HOME; #1"
    make(directory)

    shake_hands(directory)


def test_default_directory_is_beside_the_script(tmp_path: Path) -> None:
    """From wherever it is called, the script fills certs/ beside itself."""
    script = shutil.copy(SCRIPT, tmp_path / "gen_certs.sh")
    subprocess.run([script], check=True, cwd="/", stdout=subprocess.DEVNULL)

    shake_hands(tmp_path / "certs")


def test_help(tmp_path: Path) -> None:
    """--help explains every option, on stdout."""
    printed = make(tmp_path / "certs", "--help")

    for option in ("--dir", "--host", "--days", "--revoke", "--renew-crl"):
        assert option in printed
    assert not (tmp_path / "certs").exists()


def test_without_openssl(tmp_path: Path) -> None:
    """A machine without openssl is told what to install."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    result = gen_certs(tmp_path / "certs", path=str(tools))

    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "openssl is not installed" in result.stderr


@pytest.mark.slow
def test_two_at_once(tmp_path: Path) -> None:
    """Two runs at the same time agree on one authority."""
    command = [str(SCRIPT), "--dir", str(tmp_path)]
    with (
        subprocess.Popen([*command, "alice"], stdout=subprocess.DEVNULL) as first,
        subprocess.Popen([*command, "bob"], stdout=subprocess.DEVNULL) as second,
    ):
        assert (first.wait(DEADLINE), second.wait(DEADLINE)) == (0, 0)

    shake_hands(tmp_path, name="alice")
    shake_hands(tmp_path, name="bob")


INTERRUPTING_OPENSSL = """\
#!/bin/sh
count=$(($(cat "{counter}") + 1))
echo $count >"{counter}"
[ $count -ne {call} ] || kill -{signal} 0
exec "{openssl}" "$@"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "number"),
    [
        *((call, signal.SIGKILL) for call in (1, 2, 3, 5, 7, 11)),
        (7, signal.SIGINT),
        (7, signal.SIGTERM),
    ],
)
def test_interrupted_run_leaves_whole_files(
    tmp_path: Path, call: int, number: signal.Signals
) -> None:
    """Wherever a run is cut, each file is whole, and the next run completes them."""
    tools, counter, directory = (
        tmp_path / name for name in ("bin", "counter", "certs")
    )
    tools.mkdir()
    counter.write_text("0")
    wrapper = tools / "openssl"
    wrapper.write_text(
        INTERRUPTING_OPENSSL.format(
            counter=counter,
            call=call,
            signal=number.name.removeprefix("SIG"),
            openssl=shutil.which("openssl"),
        )
    )
    wrapper.chmod(0o755)
    cut = gen_certs(directory, path=f"{tools}:{os.environ['PATH']}")

    assert cut.returncode != 0
    halves = contents(directory)
    for name, data in halves.items():
        assert name.endswith(".pem")
        assert data.endswith((b"END CERTIFICATE-----\n", b"END PRIVATE KEY-----\n"))
    make(directory)
    keys = {name: data for name, data in halves.items() if "-key" in name}
    assert keys.items() <= contents(directory).items()
    records = {path.name for path in (directory / ".ca").iterdir()}
    assert records == {"crlnumber", "index", "lock"}
    shake_hands(directory)
