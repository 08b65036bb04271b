"""Fetching URLs from a real server on loopback, and refusing what leads astray.

Two tests need hosts on the public internet; there only the network is a stand-in: names
resolve to public addresses, and connections to those are led to the server on loopback.
"""

import datetime
import gzip
import ipaddress
import socket
import ssl
import time
import tracemalloc

import pytest
import urllib3.util.connection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from http_server import running_server

from transforms.errors import (
    ImageForbidden,
    ImageNotFound,
    ImageTooLarge,
    ImageUnreachable,
    UndecodableImage,
)
from transforms.storage import http_source
from transforms.storage.http_source import HttpSettings, fetch_url, objection_to_address, shown_url

PHOTO = bytes(range(256)) * 40
LOOPBACK = HttpSettings(timeout_seconds=20, allow_private_addresses=True)
PUBLIC_ADDRESS = "93.184.216.34"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(http_source, "RETRY_AFTER_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def shared_server():
    with running_server() as server:
        yield server


@pytest.fixture
def server(shared_server):
    shared_server.answers.clear()
    shared_server.requests.clear()
    shared_server.hosts.clear()
    return shared_server


@pytest.fixture
def internet(monkeypatch):
    """Names that resolve to what the test says, and public addresses that lead to loopback."""
    names: dict[str, list[list[str]]] = {}
    lookups: list[str] = []
    connections: list[str] = []
    resolve, connect = socket.getaddrinfo, urllib3.util.connection.create_connection

    def getaddrinfo(host, port, *arguments, **options):
        if host not in names:
            return resolve(host, port, *arguments, **options)
        lookups.append(host)
        answers = names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            entry
            for address in addresses
            for entry in resolve(address, port, *arguments, **options)
        ]

    def create_connection(address, *arguments, **options):
        connections.append(address[0])
        host = "127.0.0.1" if address[0] == PUBLIC_ADDRESS else address[0]
        return connect((host, address[1]), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)

    class Internet:
        pass

    internet = Internet()
    internet.names, internet.lookups, internet.connections = names, lookups, connections
    return internet


def fetch(url, max_bytes=1_000_000, settings=LOOPBACK):
    return fetch_url(url, max_bytes, settings)


def test_the_content_comes_whole_and_the_query_reaches_the_server(server):
    url = server.serve("/a b.jpg", PHOTO)
    server.answers["/a%20b.jpg"] = server.answers["/a b.jpg"]
    assert fetch(url + "?key=1&x=%2F#fragment") == PHOTO
    assert server.requests == ["/a%20b.jpg?key=1&x=%2F"]
    assert server.hosts == [f"127.0.0.1:{server.server_port}"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ImageNotFound),
        (410, ImageNotFound),
        (401, ImageForbidden),
        (403, ImageForbidden),
        (400, ImageUnreachable),
        (204, ImageUnreachable),
    ],
)
def test_a_final_status_is_asked_for_once(server, status, error):
    url = server.serve("/a.jpg", b"", status=status)
    with pytest.raises(error, match=rf"a\.jpg is answered with {status}"):
        fetch(url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_status_is_tried_again(server, status):
    def recover(request):
        if len(server.requests) < 3:
            request.reply(b"", status=status)
        else:
            request.reply(PHOTO)

    server.answers["/a.jpg"] = recover
    assert fetch(server.url("/a.jpg")) == PHOTO
    assert len(server.requests) == 3


def test_a_lasting_503_costs_the_image_and_not_the_job(server):
    url = server.serve("/a.jpg", b"", status=503)
    with pytest.raises(ImageUnreachable, match=r"503 Service Unavailable \(tried 3 times\)"):
        fetch(url)


def test_the_server_may_say_how_long_to_wait(server):
    def recover(request):
        if len(server.requests) < 2:
            request.reply(b"", status=429, Retry_After=1)
        else:
            request.reply(PHOTO)

    server.answers["/a.jpg"] = recover
    started = time.monotonic()
    assert fetch(server.url("/a.jpg")) == PHOTO
    assert time.monotonic() - started >= 1


def test_a_wait_beyond_the_time_out_is_not_begun(server):
    url = server.serve("/a.jpg", b"", status=429, Retry_After=3600)
    started = time.monotonic()
    with pytest.raises(ImageUnreachable, match="tried once"):
        fetch(url)
    assert time.monotonic() - started < 10


def test_a_closed_port_is_unreachable():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(ImageUnreachable, match=r"Connection refused \(tried 3 times\)"):
        fetch(f"http://127.0.0.1:{port}/a.jpg")


def test_a_host_that_does_not_exist_is_not_tried_again(monkeypatch):
    def getaddrinfo(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ImageUnreachable, match=r"there is no host gone\.example$"):
        fetch("http://gone.example/a.jpg")


def test_a_file_at_the_limit_is_read_and_one_byte_more_is_too_large(server):
    url = server.serve("/a.jpg", PHOTO)
    assert fetch(url, len(PHOTO)) == PHOTO
    with pytest.raises(ImageTooLarge, match="more than the 10,239 bytes"):
        fetch(url, len(PHOTO) - 1)
    assert len(server.requests) == 2


def test_an_endless_answer_is_read_only_up_to_the_limit(server):
    def endless(request):
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(PHOTO)

    server.answers["/a.jpg"] = endless
    with pytest.raises(ImageTooLarge):
        fetch(server.url("/a.jpg"), 1000)


def test_a_chunked_answer_without_a_length_comes_whole(server):
    def chunked(request):
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for piece in (PHOTO[:1000], PHOTO[1000:], b""):
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    server.answers["/a.jpg"] = chunked
    assert fetch(server.url("/a.jpg")) == PHOTO


@pytest.mark.parametrize("stated", [len(PHOTO) + 1, 100_000])
def test_an_answer_shorter_than_it_says_is_tried_again_and_never_taken(server, stated):
    url = server.serve("/a.jpg", PHOTO, Content_Length=stated)
    with pytest.raises(ImageUnreachable, match=r"ends before its end \(tried 3 times\)"):
        fetch(url)


def test_an_answer_longer_than_it_says_is_taken_as_it_says(server):
    url = server.serve("/a.jpg", PHOTO, Content_Length=100)
    assert fetch(url) == PHOTO[:100]


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_its_answer_is_cut_off(server, part):
    def drip(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if part == "body":
            request.wfile.write(b"\r\n")
        request.drip()

    server.answers["/a.jpg"] = drip
    started = time.monotonic()
    with pytest.raises(ImageUnreachable, match=r"was not read in 0\.5 seconds"):
        fetch(server.url("/a.jpg"), settings=HttpSettings(0.5, allow_private_addresses=True))
    assert time.monotonic() - started < 5


def test_a_silent_server_is_left(server, monkeypatch):
    monkeypatch.setattr(http_source, "SILENCE_TIMEOUT_SECONDS", 0.1)
    server.answers["/a.jpg"] = lambda request: time.sleep(1)
    with pytest.raises(ImageUnreachable, match=r"does not answer \(tried 3 times\)"):
        fetch(server.url("/a.jpg"))


def test_a_gzip_that_nobody_asked_for_is_unpacked(server):
    url = server.serve("/a.jpg", gzip.compress(PHOTO), Content_Encoding="gzip")
    assert fetch(url, len(PHOTO)) == PHOTO
    two = gzip.compress(PHOTO[:100]) + gzip.compress(PHOTO[100:])
    assert fetch(server.serve("/two.jpg", two, Content_Encoding="GZip")) == PHOTO


def test_a_gzip_bomb_is_unpacked_only_up_to_the_limit(server):
    bomb = gzip.compress(bytes(100_000_000))
    url = server.serve("/a.jpg", bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge):
            fetch(url, 200_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "coding", "told"),
    [
        (b"no gzip", "gzip", "corrupt gzip"),
        (gzip.compress(PHOTO)[:-10], "gzip", "gzip that ends before its end"),
        (b"", "br", "content coding 'br'"),
        (b"", "gzip, gzip", "content coding 'gzip, gzip'"),
    ],
)
def test_an_answer_that_cannot_be_unpacked_is_undecodable(server, content, coding, told):
    url = server.serve("/a.jpg", content, Content_Encoding=coding)
    with pytest.raises(UndecodableImage, match=told):
        fetch(url)


def test_redirects_are_followed_relative_ones_too(server):
    server.serve("/photos/a.jpg", PHOTO)
    server.serve("/old", b"moved", status=301, Location="older?size=1")
    server.serve("/older", b"moved", status=307, Location=server.url("/photos/a.jpg"))
    assert fetch(server.url("/old")) == PHOTO
    assert server.requests == ["/old", "/older?size=1", "/photos/a.jpg"]


def test_a_circle_of_redirects_is_left(server):
    url = server.serve("/a.jpg", b"", status=302, Location="/a.jpg")
    with pytest.raises(ImageUnreachable, match="redirected more than 5 times"):
        fetch(url)
    assert len(server.requests) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a.jpg"])
def test_a_redirect_to_another_scheme_is_forbidden(server, location):
    url = server.serve("/a.jpg", b"", status=302, Location=location)
    with pytest.raises(ImageForbidden, match="not http or https"):
        fetch(url)


@pytest.mark.parametrize(
    "host",
    [
        *("192.0.0.192", "168.63.129.16", "[64:ff9b::a83f:8110]", "[3fff::1]"),
        *("127.0.0.1", "localhost", "127.1", "0177.0.0.1", "0x7f.1", "2130706433", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"),
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "[fe80::1]", "[fc00::1]", "[2002:7f00:1::]"),
    ],
)
def test_an_address_that_is_not_public_is_forbidden(server, host):
    server.serve("/a.jpg", PHOTO)
    with pytest.raises(ImageForbidden, match=r"input\.allow_private_addresses") as caught:
        fetch(server.url("/a.jpg", host), settings=HttpSettings())
    assert "http=HttpSettings(allow_private_addresses=True)" in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        *[("0.0.0.0", "unspecified"), ("0.0.0.1", "special-purpose"), ("::", "unspecified")],
        *[("10.0.0.1", "private"), ("172.31.255.255", "private"), ("192.168.0.1", "private")],
        *[("127.255.0.1", "loopback"), ("169.254.169.254", "link-local"), ("fd00::1", "private")],
        *[("240.0.0.1", "reserved"), ("255.255.255.255", "reserved"), ("fec0::1", "site-local")],
        *[("ff02::1", "multicast"), ("fe80::1%1", "link-local"), ("64:ff9b:1::1", "reserved")],
        *[("::7f00:1", "reserved"), ("::ffff:192.0.0.192", "special-purpose")],
        *[("2002:a83f:8110::", "special-purpose"), ("100::1", "reserved"), ("5f00::1", "reserved")],
    ],
)
def test_an_objection_names_the_kind_of_the_address(address, kind):
    assert objection_to_address(ipaddress.ip_address(address)) == kind


@pytest.mark.parametrize(
    "network",
    [
        *("100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("2001::/23", "2001:db8::/32", "3fff::/20"),
    ],
)
def test_a_special_purpose_network_is_forbidden_to_its_last_address(network):
    network = ipaddress.ip_network(network)
    # The relays inside 192.0.0.0/24 and 2001::/23 are what releases of Python differ about.
    relays = [ipaddress.ip_address(a) for a in ("192.0.0.9", "192.0.0.192", "2001:1::1")]
    for address in (network[0], network[-1], *(relay for relay in relays if relay in network)):
        assert objection_to_address(address) == "special-purpose"


def test_the_refusal_is_english(server):
    with pytest.raises(ImageForbidden, match=r"leads to 0\.0\.0\.0, an unspecified address"):
        fetch(server.url("/a.jpg", "0.0.0.0"), settings=HttpSettings())
    with pytest.raises(ImageForbidden, match=r"leads to 127\.0\.0\.1, a loopback address"):
        fetch(server.url("/a.jpg", "127.0.0.1"), settings=HttpSettings())


@pytest.mark.parametrize(
    "address",
    [
        *("93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"),
        *("192.0.1.1", "168.63.129.15", "168.63.129.17", "100.63.255.255", "100.128.0.0"),
        *("172.15.255.255", "172.32.0.0", "198.20.0.0", "192.88.100.1", "2001:200::1"),
    ],
)
def test_a_public_address_is_allowed(address):
    assert objection_to_address(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize("userinfo", ["photos.example", "me:secret"])
def test_a_user_name_in_a_url_is_forbidden_and_not_repeated(server, userinfo):
    server.serve("/a.jpg", PHOTO)
    url = server.url("/a.jpg").replace("//", f"//{userinfo}@")
    with pytest.raises(ImageForbidden, match="holds a user name") as caught:
        fetch(url)
    assert userinfo not in str(caught.value)
    assert server.requests == []


def test_no_message_holds_the_query(server):
    server.serve("/503", b"", status=503)
    server.serve("/large", PHOTO)
    for path in ("/404", "/503", "/large"):
        with pytest.raises(Exception, match=path) as caught:
            fetch(server.url(path) + "?signature=secret", 10)
        assert "secret" not in str(caught.value)


def test_what_cannot_be_taken_apart_is_shown_without_its_secrets():
    assert shown_url("http://me:secret@[::1") == "http:..."
    with pytest.raises(ImageUnreachable, match="no URL that can be read"):
        fetch("http://me:secret@[::1/a.jpg")


def test_a_redirect_into_the_own_network_is_forbidden(server, internet):
    internet.names["photos.example"] = [[PUBLIC_ADDRESS]]
    server.serve("/a.jpg", b"", status=302, Location=server.url("/secret"))
    server.serve("/secret", PHOTO)
    with pytest.raises(ImageForbidden, match=r"leads to 127\.0\.0\.1, a loopback address"):
        fetch(server.url("/a.jpg", "photos.example"), settings=HttpSettings())
    assert server.requests == ["/a.jpg"]


def test_the_address_that_was_checked_is_the_one_connected_to(server, internet):
    # The second answer of this name would lead to loopback.
    internet.names["photos.example"] = [[PUBLIC_ADDRESS], ["127.0.0.1"]]
    url = server.serve("/a.jpg", PHOTO).replace("127.0.0.1", "photos.example")
    assert fetch(url, settings=HttpSettings()) == PHOTO
    assert internet.lookups == ["photos.example"]
    assert internet.connections == [PUBLIC_ADDRESS]
    assert server.hosts == [f"photos.example:{server.server_port}"]


def test_one_private_address_among_public_ones_is_forbidden(server, internet):
    internet.names["photos.example"] = [[PUBLIC_ADDRESS, "10.0.0.1"]]
    with pytest.raises(ImageForbidden, match=r"leads to 10\.0\.0\.1, a private address"):
        fetch(server.url("/a.jpg", "photos.example"), settings=HttpSettings())


def test_the_next_address_is_tried_where_one_refuses(server, internet):
    internet.names["photos.example"] = [["127.0.0.2", "127.0.0.1"]]
    server.serve("/a.jpg", PHOTO)
    assert fetch(server.url("/a.jpg", "photos.example")) == PHOTO


def test_a_proxy_of_the_environment_is_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(server.serve("/a.jpg", PHOTO)) == PHOTO


@pytest.fixture
def tls_server(tmp_path, monkeypatch):
    """A server whose certificate, for photos.example, is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("photos.example")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    http_source._tls_context.cache_clear()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, tmp_path / "key.pem")
    with running_server(context) as server:
        yield server
    http_source._tls_context.cache_clear()


def test_tls_verifies_the_name_and_not_the_pinned_address(tls_server, internet):
    internet.names["photos.example"] = [[PUBLIC_ADDRESS]]
    internet.names["other.example"] = [[PUBLIC_ADDRESS]]
    tls_server.serve("/a.jpg", PHOTO)
    assert fetch(tls_server.url("/a.jpg", "photos.example"), settings=HttpSettings()) == PHOTO
    with pytest.raises(ImageUnreachable, match=r"certificate of other\.example is not valid"):
        fetch(tls_server.url("/a.jpg", "other.example"), settings=HttpSettings())
    with pytest.raises(ImageUnreachable, match=r"certificate of 127\.0\.0\.1 is not valid"):
        fetch(tls_server.url("/a.jpg"))


def test_a_tls_server_that_drips_is_cut_off_too(tls_server, internet):
    def drip(request):
        request.send_response(200)
        request.end_headers()
        request.drip()

    internet.names["photos.example"] = [["127.0.0.1"]]
    tls_server.answers["/a.jpg"] = drip
    started = time.monotonic()
    with pytest.raises(ImageUnreachable, match=r"was not read in 0\.5 seconds"):
        fetch(
            tls_server.url("/a.jpg", "photos.example"),
            settings=HttpSettings(0.5, allow_private_addresses=True),
        )
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_time_out_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="timeout_seconds is"):
        HttpSettings(seconds)
