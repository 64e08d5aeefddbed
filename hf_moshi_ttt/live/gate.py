"""Who may come in: the address, the token, the page that a request comes from, and TLS."""

import base64
import binascii
import hmac
import ipaddress
import re
import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK_OWNER = "loopback"
SUBPROTOCOL = "moshi-ttt"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_TOKEN_PREFIX = "token."  # browsers cannot set headers of a WebSocket, but its subprotocols


class Refused(Exception):
    """A request that may not come in.

    Args:
        status: of HTTP.
        text: what the client reads.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def is_loopback(host: str) -> bool:
    """Whether a name or address, without a port, is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def tokens_for(host: str, given: list[str]) -> tuple[list[str], bool]:
    """The tokens that are asked for, and whether one was made because the host needs one.

    Raises:
        ValueError: a token that is too short, too long or has other characters.
    """
    for token in given:
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"A token of {len(token)} characters: give 16 to 128 of A-Z, a-z, 0-9, _ and -.")
    is_made = not given and not is_loopback(host)
    return ([secrets.token_urlsafe(24)] if is_made else given), is_made


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS from a certificate and its key, or None without them.

    Raises:
        ValueError: one without the other, or files that are no certificate and key.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("TLS needs both --cert and --key.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"--cert {certificate}, --key {key}: no certificate and its key in PEM ({error}).") from error
    return context


def _given_token(headers: Mapping[str, str]) -> str | None:
    """The token of a request: Bearer, the password of Basic (`https://any:TOKEN@host`), or a WebSocket subprotocol."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    for offered in headers.get("Sec-WebSocket-Protocol", "").split(","):
        if offered.strip().startswith(_TOKEN_PREFIX):
            return offered.strip().removeprefix(_TOKEN_PREFIX)
    return None


class Gate:
    """Checks the headers of requests.

    Args:
        host: that the server listens on.
        tokens: that are let in; without any, everybody who reaches a loopback address is.
        origins: pages beside the server's own, as `https://name:port`.

    Raises:
        ValueError: no token where the host is not loopback.
    """

    def __init__(self, host: str, tokens: list[str], origins: list[str] | None = None) -> None:
        if not tokens and not is_loopback(host):
            raise ValueError(f"--host {host} can be reached from other machines: a token is needed.")
        self.tokens, self.origins = tokens, set(origins or ())
        self.names_only_loopback = is_loopback(host)

    def check_address(self, headers: Mapping[str, str]) -> None:
        """Refuses names that only pretend to be this machine, and pages of other servers.

        A name of another's that resolves to a loopback address would make that page's origin look like our own.

        Raises:
            Refused: such a request.
        """
        address, origin = headers.get("Host", ""), headers.get("Origin")
        try:
            host, page = urlsplit(f"//{address}").hostname, urlsplit(origin or "").netloc
        except ValueError:
            raise Refused(400, "Host or Origin is no address.") from None
        if self.names_only_loopback and not is_loopback(host or ""):
            raise Refused(421, "This server answers to the names localhost and 127.0.0.1.")
        if origin is not None and origin not in self.origins and page.lower() != address.lower():
            raise Refused(403, "A page of another server may not use this one; --origin allows it.")

    def owner(self, headers: Mapping[str, str]) -> str:
        """Whom a request's memories belong to: its token.

        Raises:
            Refused: no token, or none that is let in.
        """
        if not self.tokens:
            return LOOPBACK_OWNER
        given = (_given_token(headers) or "").encode(errors="surrogateescape")
        matches = [token for token in self.tokens if hmac.compare_digest(token.encode(), given)]
        if not matches:
            raise Refused(401, "A token is needed: open the link that the server printed.")
        return matches[0]
