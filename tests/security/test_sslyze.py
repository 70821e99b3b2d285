"""sslyze, with a certificate of a client, finds TLS 1.3 and nothing else."""

from typing import Final

import pytest
from sslyze.plugins.scan_commands import ScanCommand
from sslyze.scanner.models import (
    AllScanCommandsAttempts,
    ServerScanRequest,
    ServerScanStatusEnum,
)
from sslyze.scanner.scan_command_attempt import ScanCommandAttemptStatusEnum
from sslyze.scanner.scanner import Scanner
from sslyze.server_setting import (
    ClientAuthenticationCredentials,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
)

from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates


pytestmark = pytest.mark.slow

OLD: Final = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2")
AEAD: Final = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
}

COMMANDS: Final = {
    ScanCommand.SSL_2_0_CIPHER_SUITES,
    ScanCommand.SSL_3_0_CIPHER_SUITES,
    ScanCommand.TLS_1_0_CIPHER_SUITES,
    ScanCommand.TLS_1_1_CIPHER_SUITES,
    ScanCommand.TLS_1_2_CIPHER_SUITES,
    ScanCommand.TLS_1_3_CIPHER_SUITES,
    ScanCommand.TLS_1_3_EARLY_DATA,
    ScanCommand.TLS_COMPRESSION,
    ScanCommand.SESSION_RENEGOTIATION,
    ScanCommand.SESSION_RESUMPTION,
    ScanCommand.ELLIPTIC_CURVES,
    ScanCommand.HEARTBLEED,
    ScanCommand.OPENSSL_CCS_INJECTION,
    ScanCommand.ROBOT,
}


@pytest.fixture(scope="module")
def found(daemon: Daemon, certs: Certificates) -> AllScanCommandsAttempts:
    """What sslyze finds at the port; all that was asked has been found out."""
    host, _, port = daemon.address.rpartition(":")
    alice = certs.of("alice")
    credentials = ClientAuthenticationCredentials(alice.cert, alice.key)
    scanner = Scanner()
    scanner.queue_scans(
        [
            ServerScanRequest(
                ServerNetworkLocation("localhost", int(port), ip_address=host),
                ServerNetworkConfiguration(
                    "localhost", tls_client_auth_credentials=credentials
                ),
                scan_commands=COMMANDS,
            )
        ]
    )
    (result,) = scanner.get_results()

    assert result.scan_status is ServerScanStatusEnum.COMPLETED
    assert result.scan_result is not None

    for command in COMMANDS:
        attempt = getattr(result.scan_result, command.value)
        assert attempt.status is ScanCommandAttemptStatusEnum.COMPLETED, command

    return result.scan_result


@pytest.mark.parametrize("version", OLD)
def test_nothing_below_tls_1_3(found: AllScanCommandsAttempts, version: str) -> None:
    """No cipher suite of an older version is accepted."""
    suites = getattr(found, f"{version}_cipher_suites").result

    assert suites.rejected_cipher_suites
    assert suites.accepted_cipher_suites == []


def test_only_suites_with_authentication(found: AllScanCommandsAttempts) -> None:
    """Of TLS 1.3, the three suites that authenticate what they encrypt."""
    suites = found.tls_1_3_cipher_suites.result

    assert suites is not None
    assert {each.cipher_suite.name for each in suites.accepted_cipher_suites} == AEAD


def test_one_group(found: AllScanCommandsAttempts) -> None:
    """Keys are exchanged over the one curve that every client has."""
    curves = found.elliptic_curves.result

    assert curves is not None
    assert [curve.name for curve in curves.supported_curves or []] == ["secp256r1"]


def test_no_early_data(found: AllScanCommandsAttempts) -> None:
    """Nothing is taken that somebody else may send again."""
    early_data = found.tls_1_3_early_data.result

    assert early_data is not None
    assert early_data.supports_early_data is False


def test_no_resumption(found: AllScanCommandsAttempts) -> None:
    """There is no session to come back to: every client shows its certificate."""
    resumption = found.session_resumption.result

    assert resumption is not None
    assert resumption.session_id_resumption_result.name == "SERVER_IS_TLS_1_3_ONLY"
    assert resumption.tls_ticket_resumption_result.name == "SERVER_IS_TLS_1_3_ONLY"


def test_no_compression(found: AllScanCommandsAttempts) -> None:
    """What is sent tells nothing of itself by its length."""
    compression = found.tls_compression.result

    assert compression is not None
    assert compression.supports_compression is False


def test_no_renegotiation(found: AllScanCommandsAttempts) -> None:
    """A connection cannot be made to do its handshake again and again."""
    renegotiation = found.session_renegotiation.result

    assert renegotiation is not None
    assert renegotiation.is_vulnerable_to_client_renegotiation_dos is False
    assert renegotiation.client_renegotiations_success_count == 0


def test_no_known_holes(found: AllScanCommandsAttempts) -> None:
    """What other servers suffered from is not here."""
    heartbleed = found.heartbleed.result
    injection = found.openssl_ccs_injection.result
    robot = found.robot.result

    assert heartbleed is not None
    assert injection is not None
    assert robot is not None
    assert heartbleed.is_vulnerable_to_heartbleed is False
    assert injection.is_vulnerable_to_ccs_injection is False
    assert robot.robot_result.name == "NOT_VULNERABLE_RSA_NOT_SUPPORTED"
