"""Loopback alone comes in without a token; names and pages of others are refused."""

import base64
from pathlib import Path

import pytest

from hf_moshi_ttt.live.gate import LOOPBACK_OWNER, Gate, Refused, is_loopback, tls_context, tokens_for

TOKEN, OTHER = "first-token-0123456789", "other_token-0123456789"


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "example.org", ""]))


def test_a_token_is_made_where_other_machines_reach_the_server() -> None:
    assert tokens_for("127.0.0.1", []) == ([], False)
    made, is_made = tokens_for("0.0.0.0", [])
    assert is_made and len(made[0]) == 32 and made != tokens_for("0.0.0.0", [])[0]
    assert tokens_for("0.0.0.0", [TOKEN]) == ([TOKEN], False)
    for token in ("short", "with spaces in the middle", "x" * 129):
        with pytest.raises(ValueError, match=rf"^A token of {len(token)} characters: give 16 to 128 of A-Z, a-z, 0-9,"):
            tokens_for("127.0.0.1", [token])
    with pytest.raises(
        ValueError, match=r"^--host 0\.0\.0\.0 can be reached from other machines: a token is needed\.$"
    ):
        Gate("0.0.0.0", [])


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {OTHER}"},
        {"Authorization": f"bearer {OTHER}"},
        basic(f"moshi:{OTHER}"),
        {"Sec-WebSocket-Protocol": f"moshi-ttt, token.{OTHER}"},
    ],
)
def test_the_token_is_the_owner(headers: dict[str, str]) -> None:
    assert Gate("0.0.0.0", [TOKEN, OTHER]).owner(headers) == OTHER
    assert Gate("127.0.0.1", []).owner(headers) == LOOPBACK_OWNER


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {OTHER}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer é"},
        {"Authorization": "Bearer \udcff"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic /w=="},
        basic(TOKEN),
        {"Sec-WebSocket-Protocol": TOKEN},
        {"Cookie": f"token={TOKEN}"},
    ],
)
def test_no_other_token_is_let_in(headers: dict[str, str]) -> None:
    with pytest.raises(Refused, match=r"^A token is needed: open the link that the server printed\.$") as caught:
        Gate("127.0.0.1", [TOKEN]).owner(headers)
    assert caught.value.status == 401


def status(gate: Gate, **headers: str) -> int:
    try:
        gate.check_address(headers)
    except Refused as refused:
        return refused.status
    return 200


def test_origins_and_names() -> None:
    local = Gate("127.0.0.1", [], ["https://friend.org"])
    assert [status(local, Host=name) for name in ("localhost:8998", "[::1]:8998", "127.0.0.1")] == [200] * 3
    assert status(local, Host="evil.org:8998", Origin="http://evil.org:8998") == 421
    assert status(local, Host="") == 421
    assert status(local, Host="[bad") == status(local, Host="localhost", Origin="http://[bad") == 400
    assert status(local, Host="localhost:8998", Origin="http://localhost:8998") == 200
    assert status(local, Host="localhost:8998", Origin="http://evil.org") == 403
    assert status(local, Host="localhost:8998", Origin="http://localhost:9999") == 403
    assert status(local, Host="localhost:8998", Origin="null") == 403
    assert status(local, Host="localhost:8998", Origin="https://friend.org") == 200
    far = Gate("0.0.0.0", [TOKEN])
    assert status(far, Host="moshi.example.org", Origin="https://moshi.example.org") == 200
    assert status(far, Host="moshi.example.org", Origin="https://evil.org") == 403


def test_tls_needs_a_certificate_and_its_key(tmp_path: Path) -> None:
    assert tls_context(None, None) is None
    with pytest.raises(ValueError, match=r"^TLS needs both --cert and --key\.$"):
        tls_context(tmp_path / "cert.pem", None)
    with pytest.raises(ValueError, match=r"--cert .*cert\.pem, --key .*key\.pem: no certificate and its key in PEM \("):
        tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
    (tmp_path / "cert.pem").write_text("nothing")
    (tmp_path / "key.pem").write_text("nothing")
    with pytest.raises(ValueError, match="no certificate and its key in PEM"):
        tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")
