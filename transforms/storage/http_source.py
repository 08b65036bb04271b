"""Fetch an image from an http(s) URL, without letting the URL reach into one's own network.

A list of URLs may come from anybody, and the workers often stand inside a network that trusts
them. So each host name is resolved once, the addresses are judged, and the connection goes to
an address that was judged, also after a redirect: a name that changes its answer between the
check and the connection (DNS rebinding) gains nothing. TLS still verifies the name.

Proxies of the environment (HTTPS_PROXY and the like) are not used: a proxy resolves names
itself, so that nothing could be checked here.
"""

import functools
import ipaddress
import math
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from typing import NamedTuple
from urllib.parse import urljoin

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, InvalidHeader, LocationParseError
from urllib3.exceptions import TimeoutError as TimeoutException
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, parse_url

from transforms.errors import (
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ImageUnreachable,
    UndecodableImage,
)

#: A fetch that fails for a passing reason is tried again after these many seconds, or after
#: what the server's Retry-After says, if that is longer.
RETRY_AFTER_SECONDS = (0.5, 2.0)

#: For the TCP connection, and again for the TLS handshake.
CONNECT_TIMEOUT_SECONDS = 10.0

#: The longest silence of a server that has not sent everything yet.
SILENCE_TIMEOUT_SECONDS = 20.0

MAX_REDIRECTS = 5

_PIECE_BYTES = 64 * 1024

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)

# IPv4 behind an IPv6-only network: https://www.rfc-editor.org/rfc/rfc6052#section-2.1
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

# Which of these the module ipaddress calls private or global differs between patch releases of
# Python. A few addresses inside 192.0.0.0/24 and 2001::/23 are globally reachable; they are
# relays and name servers that hold no image, while clouds put their metadata beside them.
# https://www.iana.org/assignments/iana-ipv4-special-registry
# https://www.iana.org/assignments/iana-ipv6-special-registry
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_SPECIAL_PURPOSE = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "240.0.0.0/4"),
        *("64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32"),
        *("3fff::/20", "5f00::/16", "fe80::/10"),
        # In no registry: the host of each virtual machine of Azure,
        # https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
        "168.63.129.16/32",
    )
)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How http(s) URLs are fetched.

    Raises:
        ValueError: `timeout_seconds` is not a positive number.
    """

    timeout_seconds: float = 60.0
    """For one image in all, from the first connection to the last byte, redirects and further
    attempts included. Only a slow resolver of names can add to it."""
    allow_private_addresses: bool = False
    """Whether URLs may lead to private, loopback, link-local and other addresses that are not
    public. Anybody who may add a URL to a list could then reach the network of the workers."""

    def __post_init__(self) -> None:
        if not (self.timeout_seconds > 0 and math.isfinite(self.timeout_seconds)):
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; use a positive number")


class _PassingFault(Exception):
    """The server may do better at the next attempt."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _Target(NamedTuple):
    """One URL, taken apart once, so that what is checked is what is asked for."""

    secure: bool
    host: str
    """As it is resolved and verified; an IPv6 address without brackets."""
    port: int
    host_header: str
    path_and_query: str
    shown: str


def fetch_url(url: str, max_bytes: int, settings: HttpSettings = HttpSettings()) -> bytes:
    """Return what an http(s) URL answers, at most `max_bytes` of it.

    Up to five redirects are followed, each checked like the URL itself. Too many requests (429),
    faults of the server (5xx), cut answers and failed connections are tried three times within
    `settings.timeout_seconds`. A lasting fault is an `ImageUnreachable`, which costs this image
    and not the job: of the many hosts in a list one is always down. An answer that is sent as
    gzip is unpacked, and the limit holds for what comes out. No message holds the query of a
    URL, which may be a secret.

    Raises:
        ImageNotFound: the server answers 404 or 410.
        ImageForbidden: it answers 401, 402, 403, 407 or 451; or the URL, or a redirect, leads
            to an address that is not public, to another scheme than http and https, or holds a
            user name.
        ImageTooLarge: there are more than `max_bytes`; not more than that is read.
        ImageUnreachable: the server cannot be reached, is too slow, or answers anything else.
        UndecodableImage: the answer has an unknown or corrupt content coding.

    Example:
        >>> content = fetch_url("https://example.org/photo.jpg", 10_000_000)  # doctest: +SKIP
    """
    deadline = time.monotonic() + settings.timeout_seconds
    for attempt, seconds in enumerate((*RETRY_AFTER_SECONDS, None), start=1):
        try:
            return _fetch_once(url, max_bytes, settings, deadline)
        except _PassingFault as fault:
            wait = max(seconds or 0.0, fault.retry_after)
            if seconds is None or time.monotonic() + wait >= deadline:
                times = "once" if attempt == 1 else f"{attempt} times"
                raise ImageUnreachable(f"{fault} (tried {times})") from fault
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def shown_url(url: str) -> str:
    """Return the URL without user name, password, query and fragment, for messages.

    Example:
        >>> shown_url("https://me:secret@example.org/a.jpg?signature=secret")
        'https://example.org/a.jpg?...'
    """
    try:
        parsed = parse_url(url)
    except LocationParseError:
        return f"{url.partition(':')[0]}:..."
    query = "?..." if parsed.query else ""
    return f"{parsed.scheme}://{parsed.netloc or ''}{parsed.path or '/'}{query}"


def objection_to_address(address: IPAddress) -> str | None:
    """Return the kind of an address that is not public, such as "loopback"; None if it is.

    An IPv4 address inside an IPv6 one (mapped, 6to4, NAT64) is judged as what it stands for.
    Not public is what IANA's registries of special-purpose addresses call not globally
    reachable, and what clouds use for the hosts of their virtual machines.

    Example:
        >>> objection_to_address(ipaddress.ip_address("::ffff:127.0.0.1"))
        'loopback'
    """
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return objection_to_address(embedded)
        if address.is_site_local:
            return "site-local"
    for kind in ("unspecified", "loopback", "link_local", "multicast", "reserved"):
        if getattr(address, f"is_{kind}"):
            return kind.replace("_", "-")
    if any(address in network for network in _PRIVATE):
        return "private"
    if any(address in network for network in _SPECIAL_PURPOSE) or not address.is_global:
        return "special-purpose"
    return None


def _fetch_once(url: str, max_bytes: int, settings: HttpSettings, deadline: float) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        target = _take_apart(url)
        with _faults_of(target), _connected(target, settings, deadline) as connection:
            headers = {
                "Host": target.host_header,
                "User-Agent": "embed-images",
                "Accept": "image/*,*/*;q=0.8",
                "Accept-Encoding": "identity",
            }
            connection.request(
                "GET",
                target.path_and_query,
                headers=headers,
                preload_content=False,
                decode_content=False,
            )
            response = connection.getresponse()
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                _check_status(response, target)
                return _read_body(response, max_bytes, target)
        url = _joined(url, location, target)
    raise ImageUnreachable(f"{target.shown} is redirected more than {MAX_REDIRECTS} times")


def _take_apart(url: str) -> _Target:
    try:
        parsed = parse_url(url)
    except LocationParseError as error:
        raise ImageUnreachable(f"{shown_url(url)} is no URL that can be read") from error
    shown = shown_url(url)
    if parsed.scheme not in ("http", "https"):
        raise ImageForbidden(f"{shown} has the scheme {parsed.scheme}, not http or https")
    if parsed.auth is not None:
        raise ImageForbidden(
            f"the URL of {shown} holds a user name, which would stand in every output; "
            "copy the image to a bucket, or use a signed URL"
        )
    if not parsed.host:
        raise ImageUnreachable(f"{shown} names no host")
    secure = parsed.scheme == "https"
    return _Target(
        secure=secure,
        host=parsed.host.strip("[]"),
        port=parsed.port or (443 if secure else 80),
        host_header=parsed.netloc or parsed.host,
        path_and_query=parsed.request_uri,
        shown=shown,
    )


def _joined(url: str, location: str, target: _Target) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise ImageUnreachable(f"{target.shown} is redirected to what is no URL") from error


def _allowed_addresses(target: _Target, settings: HttpSettings) -> list[str]:
    """Resolve the host, once, and return its addresses if all of them may be connected to."""
    try:
        # Also resolves the odd notations of IPv4, such as 0177.1 and 2130706433.
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise ImageUnreachable(f"there is no host {target.host}") from error
        raise _PassingFault(f"the host {target.host} cannot be resolved: {error}") from error
    except UnicodeError as error:
        raise ImageUnreachable(f"{target.host!r} is no name of a host") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in () if settings.allow_private_addresses else addresses:
        objection = objection_to_address(ipaddress.ip_address(address))
        if objection:
            article = "an" if objection[0] in "aeiou" else "a"
            raise ImageForbidden(
                f"{target.shown} leads to {address}, {article} {objection} address; if that is "
                "meant, set input.allow_private_addresses to true (in Python: "
                "http=HttpSettings(allow_private_addresses=True))"
            )
    return addresses


@contextmanager
def _connected(
    target: _Target, settings: HttpSettings, deadline: float
) -> Iterator[HTTPConnection]:
    """Connect to the first address that answers, and cut the connection at the deadline."""
    connection = _connect(target, _allowed_addresses(target, settings), deadline)
    # Time-outs of a socket begin anew with each byte, so a server that drips its answer could
    # hold a worker for ever. Shutting the socket down wakes whoever reads from it.
    cut = threading.Event()
    timer = threading.Timer(deadline - time.monotonic(), _cut, (connection.sock, cut))
    timer.daemon = True
    timer.start()
    try:
        connection.timeout = SILENCE_TIMEOUT_SECONDS
        yield connection
    finally:
        timer.cancel()
        connection.close()
        if cut.is_set():
            # Of an answer that states no length, the cut would look like the end.
            raise ImageUnreachable(
                f"{target.shown} was not read in {settings.timeout_seconds:g} seconds "
                "(input.http_timeout_seconds)"
            )


def _cut(connected_socket: socket.socket, cut: threading.Event) -> None:
    cut.set()
    with suppress(OSError):
        # Not the method of the SSL socket, which would drop the decryption under its reader.
        socket.socket.shutdown(connected_socket, socket.SHUT_RDWR)


def _connect(target: _Target, addresses: list[str], deadline: float) -> HTTPConnection:
    fault: Exception | None = None
    for address in addresses:
        timeout = min(CONNECT_TIMEOUT_SECONDS, deadline - time.monotonic())
        if timeout <= 0:
            break
        connection = _connection(target, address, timeout)
        try:
            connection.connect()
            return connection
        except (HTTPError, OSError) as error:
            connection.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise
            fault = error
    raise fault or _PassingFault(f"{target.shown} was not connected to in time")


def _connection(target: _Target, address: str, timeout: float) -> HTTPConnection:
    if not target.secure:
        return HTTPConnection(address, target.port, timeout=timeout)
    return HTTPSConnection(
        address,
        target.port,
        timeout=timeout,
        ssl_context=_tls_context(),
        server_hostname=target.host,
    )


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


@contextmanager
def _faults_of(target: _Target) -> Iterator[None]:
    """Name what goes wrong with a connection, and whether it may pass."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ImageUnreachable(
            f"the certificate of {target.host} is not valid: {error.verify_message}"
        ) from error
    except (HTTPError, HTTPException, OSError) as error:
        # Not their own words, which may quote the URL, and with it a secret.
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or _reason(cause)
        raise _PassingFault(f"{target.shown} cannot be read: {reason}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError | TimeoutException):
        return "the server does not answer"
    if isinstance(error, IncompleteRead):
        return "the answer ends before its end"
    return type(error).__name__


def _check_status(response: BaseHTTPResponse, target: _Target) -> None:
    """Raise what any other status than 200 stands for."""
    status = response.status
    answer = f"{target.shown} is answered with {status} {response.reason or ''}".rstrip()
    if status == 200:
        return
    if status in (404, 410):
        raise ImageNotFound(answer)
    if status in (401, 402, 403, 407, 451):
        raise ImageForbidden(answer)
    if status in _PASSING:
        raise _PassingFault(answer, _retry_after(response))
    raise ImageUnreachable(answer)


def _retry_after(response: BaseHTTPResponse) -> float:
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0


def _read_body(response: BaseHTTPResponse, max_bytes: int, target: _Target) -> bytes:
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        raise UndecodableImage(
            f"{target.shown} is sent with the content coding {coding[:50]!r}, although none was "
            "asked for"
        )
    content = bytearray()
    # Where the server states a length, not a byte of what is too large is read.
    if (response.length_remaining or 0) <= max_bytes:
        while piece := response.read(min(_PIECE_BYTES, max_bytes + 1 - len(content))):
            content += piece
            if len(content) > max_bytes:
                break
        else:
            return _unpacked(content, max_bytes, target) if "gzip" in coding else bytes(content)
    raise _too_large(max_bytes, target)


def _unpacked(content: bytes | bytearray, max_bytes: int, target: _Target) -> bytes:
    # Not by urllib3, whose unpacking has been without end or limit more than once
    # (CVE-2025-66471).
    unpacked = bytearray()
    rest = bytes(content)
    while rest:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS + 16)
        try:
            unpacked += member.decompress(rest, max_bytes + 1 - len(unpacked))
        except zlib.error as error:
            raise UndecodableImage(f"{target.shown} is sent as corrupt gzip: {error}") from error
        if len(unpacked) > max_bytes:
            raise _too_large(max_bytes, target)
        if not member.eof:
            raise UndecodableImage(f"{target.shown} is sent as gzip that ends before its end")
        rest = member.unused_data
    return bytes(unpacked)


def _too_large(max_bytes: int, target: _Target) -> ImageTooLarge:
    return ImageTooLarge(f"{target.shown} has more than the {max_bytes:,} bytes of input.max_bytes")
