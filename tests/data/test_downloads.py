"""Only public addresses, checked at every step and pinned; every bound holds. The "internet" is on loopback."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from contextcir.data import downloads
from contextcir.data.downloads import fetch_public, is_public
from contextcir.data.images import ImageError


class Site(BaseHTTPRequestHandler):
    """Pages by path."""

    asked = []

    def do_GET(self):  # noqa: N802
        self.asked.append((self.path, self.headers["Host"]))
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
    """A DNS in which `public.test` is at 127.0.0.1, which counts as public here, and `inside.test` at 10.0.0.7."""
    names = {"public.test": ["127.0.0.1"], "inside.test": ["10.0.0.7"], "both.test": ["127.0.0.1", "10.0.0.7"]}
    looked_up = []

    def resolve(host, port, **_):
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in names.get(host, [host])]

    checked = is_public
    monkeypatch.setattr(downloads.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1" or checked(address))
    # create_connection looks addresses up by getaddrinfo as well; only what the code looks up by itself counts
    monkeypatch.setattr(downloads.socket, "create_connection", lambda address, timeout: _connect(address, timeout))
    Site.asked.clear()
    return looked_up


def _connect(address, timeout):
    sock = socket.socket()
    sock.settimeout(timeout)
    sock.connect(address)
    return sock


def test_a_public_file(internet, port):
    assert fetch_public(f"http://public.test:{port}/image.png?x=1") == b"pixels"
    assert Site.asked == [("/image.png?x=1", f"public.test:{port}")]


def test_a_name_is_looked_up_once_and_the_address_pinned(internet, port):
    fetch_public(f"http://public.test:{port}/image.png?x=1")
    assert internet == ["public.test"]  # a second answer, of a DNS that lies, is never asked for


def test_redirects_are_followed_and_checked_anew(internet, port):
    assert fetch_public(f"http://public.test:{port}/moved") == b"pixels"
    assert internet == ["public.test"] * 2
    for inside in ("http://inside.test/", "http://169.254.169.254/latest/meta-data", "http://[::1]/"):
        with pytest.raises(ImageError, match="not a public address"):
            fetch_public(f"http://public.test:{port}/to/{inside}")
    for scheme in ("file:///etc/passwd", "ftp://public.test/a", "gopher://public.test"):
        with pytest.raises(ImageError, match="expected http"):
            fetch_public(f"http://public.test:{port}/to/{scheme}")


def test_redirects_end(internet, port):
    with pytest.raises(ImageError, match="redirects more than 5 times"):
        fetch_public(f"http://public.test:{port}/loop")
    assert len(Site.asked) == 6


@pytest.mark.parametrize("host", ["inside.test", "both.test", "10.0.0.1", "192.168.1.1"])
def test_no_private_address_is_connected_to(internet, port, host):
    with pytest.raises(ImageError, match="not a public address"):
        fetch_public(f"http://{host}:{port}/image.png")
    assert not Site.asked


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
def test_odd_urls(internet, url):
    with pytest.raises(ImageError) as caught:
        fetch_public(url)
    assert str(caught.value).startswith(url)


def test_bounds(internet, port):
    assert len(fetch_public(f"http://public.test:{port}/large", max_bytes=5000)) == 5000
    for path in ("large", "endless"):
        with pytest.raises(ImageError, match="larger than 4,999 bytes"):
            fetch_public(f"http://public.test:{port}/{path}", max_bytes=4999)


def test_a_server_that_drips_is_cut_off(internet, port):
    start = time.monotonic()
    with pytest.raises(ImageError):
        fetch_public(f"http://public.test:{port}/drip", timeout=0.3)
    assert time.monotonic() - start < 3


def test_half_a_file_is_none(internet, port):
    with pytest.raises(ImageError, match="cut off|cannot be downloaded"):
        fetch_public(f"http://public.test:{port}/half")


def test_a_server_without_tls(internet, port):
    with pytest.raises(ImageError, match="cannot be downloaded .SSLError"):
        fetch_public(f"https://public.test:{port}/image.png?x=1")


def test_what_is_not_there(internet, port):
    with pytest.raises(ImageError, match="said 404"):
        fetch_public(f"http://public.test:{port}/gone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ImageError, match="cannot be downloaded"):
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
def test_addresses_that_are_not_public(address):
    assert not is_public(address)
