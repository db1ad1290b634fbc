"""Downloads reach public addresses only, and are bounded. The "internet" of these tests is on loopback."""

import contextlib
import re
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from contextcir.data import downloads
from contextcir.data.downloads import fetch_public, is_public
from contextcir.data.images import ImageError

PRIVATE = {  # address -> URL
    "10.0.0.7": "http://inside.test/",
    "169.254.169.254": "http://169.254.169.254/latest/meta-data",
    "::1": "http://[::1]/",
}


class Site(BaseHTTPRequestHandler):
    """Answers by path, and records the requests."""

    requests = []

    def do_GET(self):  # noqa: N802 - the name that http.server calls
        self.requests.append((self.path, self.headers["Host"]))
        if self.path == "/image.png?x=1":
            self.answer(200, b"pixels")
        elif self.path == "/large":
            self.answer(200, b"x" * 5000)
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x" * 1000)
        elif self.path == "/drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b"x")
                time.sleep(0.02)
        elif self.path == "/half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 900)
        elif self.path == "/loop":
            self.answer(302, Location="/loop")
        elif self.path == "/moved":
            self.answer(301, Location="/image.png?x=1")
        elif self.path.startswith("/to/"):
            self.answer(307, Location=self.path.removeprefix("/to/"))
        else:
            self.answer(404)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    http.daemon_threads = True
    http.handle_error = lambda *_: None
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield http.server_port
    http.shutdown()


@pytest.fixture
def internet(monkeypatch, port):
    """A DNS with `public.test` at 127.0.0.1, which counts as public here, and `inside.test` at 10.0.0.7. Returns the
    list of names that are looked up."""
    names = {"public.test": ["127.0.0.1"], "inside.test": ["10.0.0.7"], "both.test": ["127.0.0.1", "10.0.0.7"]}
    looked_up = []

    def resolve(host, port, **_):
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in names.get(host, [host])]

    checked = is_public
    monkeypatch.setattr(downloads.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1" or checked(address))
    # socket.create_connection calls getaddrinfo as well; only lookups of the code under test count
    monkeypatch.setattr(downloads.socket, "create_connection", lambda address, timeout: _connect(address, timeout))
    Site.requests.clear()
    return looked_up


def _connect(address, timeout):
    sock = socket.socket()
    sock.settimeout(timeout)
    sock.connect(address)
    return sock


def test_a_public_file(internet, port):
    assert fetch_public(f"http://public.test:{port}/image.png?x=1") == b"pixels"
    assert Site.requests == [("/image.png?x=1", f"public.test:{port}")]


def test_a_name_is_looked_up_once(internet, port):
    fetch_public(f"http://public.test:{port}/image.png?x=1")
    assert internet == ["public.test"]  # a second lookup could give another address


def test_redirects_are_followed_and_checked(internet, port):
    assert fetch_public(f"http://public.test:{port}/moved") == b"pixels"
    assert internet == ["public.test"] * 2
    for address, url in PRIVATE.items():
        with pytest.raises(ImageError, match=f"/to/{re.escape(url)}: .* {address},"):
            fetch_public(f"http://public.test:{port}/to/{url}")
    for url in ("file:///etc/passwd", "ftp://public.test/a", "gopher://public.test"):
        with pytest.raises(ImageError, match=f"/to/{url}: .*{url.partition(':')[0]}://…"):
            fetch_public(f"http://public.test:{port}/to/{url}")


def test_the_number_of_redirects_is_bounded(internet, port):
    with pytest.raises(ImageError, match="/loop: .* 5 "):
        fetch_public(f"http://public.test:{port}/loop")
    assert len(Site.requests) == 6


@pytest.mark.parametrize(
    "host, address",
    [
        ("inside.test", "10.0.0.7"),
        ("both.test", "10.0.0.7"),
        ("10.0.0.1", "10.0.0.1"),
        ("192.168.1.1", "192.168.1.1"),
    ],
)
def test_private_addresses_are_not_connected_to(internet, port, host, address):
    with pytest.raises(ImageError, match=f"{host} is at {address},"):
        fetch_public(f"http://{host}:{port}/image.png")
    assert not Site.requests


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://public.test/a",
        "http:///a",
        "http://me:secret@public.test/a",
        "http://public.test:99999/a",
        "http://[bad/a",
    ],
)
def test_invalid_urls(internet, url):
    with pytest.raises(ImageError) as caught:
        fetch_public(url)
    assert str(caught.value).startswith(url)


def test_the_size_is_bounded(internet, port):
    assert len(fetch_public(f"http://public.test:{port}/large", max_bytes=5000)) == 5000
    for path in ("large", "endless"):
        with pytest.raises(ImageError, match=f"/{path}: .* 4,999 "):
            fetch_public(f"http://public.test:{port}/{path}", max_bytes=4999)


def test_the_time_of_a_slow_response_is_bounded(internet, port):
    start = time.monotonic()
    with pytest.raises(ImageError, match="/drip: "):
        fetch_public(f"http://public.test:{port}/drip", timeout=0.2)
    assert time.monotonic() - start < 3


def without_certificates(protocol):
    """A TLS context for anonymous ciphers, which need no certificate."""
    context = ssl.SSLContext(protocol)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


def test_the_time_of_a_slow_tls_response_is_bounded(internet, monkeypatch):
    monkeypatch.setattr(ssl, "create_default_context", lambda: without_certificates(ssl.PROTOCOL_TLS_CLIENT))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            connection, _ = server.accept()
            tls = without_certificates(ssl.PROTOCOL_TLS_SERVER).wrap_socket(connection, server_side=True)
            with tls, contextlib.suppress(OSError):
                requests.append(tls.recv(3))
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(1000):
                    tls.sendall(bytes([byte]))
                    time.sleep(0.02)

        requests = []
        thread = threading.Thread(target=drip)
        thread.start()
        start = time.monotonic()
        with pytest.raises(ImageError, match="/a: "):
            fetch_public(f"https://public.test:{server.getsockname()[1]}/a", timeout=0.2)
        assert time.monotonic() - start < 3 and requests == [b"GET"]
        thread.join()


def test_an_incomplete_file_is_an_error(internet, port):
    with pytest.raises(ImageError, match="/half: .* 900 "):
        fetch_public(f"http://public.test:{port}/half")


def test_a_server_without_tls(internet, port):
    with pytest.raises(ImageError, match="SSLError"):
        fetch_public(f"https://public.test:{port}/image.png?x=1")


def test_missing_files_and_servers(internet, port):
    with pytest.raises(ImageError, match="/gone: .* 404 "):
        fetch_public(f"http://public.test:{port}/gone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match="/a: .*ConnectionRefusedError"):
            fetch_public(f"http://public.test:{free.getsockname()[1]}/a")


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "fec0::2",
        "::a00:1",
        "2002:a00:1::",
        "2001:0:a00:1::",
    ],
)
def test_private_addresses(address):
    assert not is_public(address)
