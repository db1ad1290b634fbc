"""Download images, from public internet addresses only.

A list of image URLs is untrusted input. A URL, its DNS or a redirect can lead to the metadata service of a cloud or to
a device in the local network. So each name is resolved once, all its addresses must be public, and the connection goes
to an address that was checked. Each redirect is checked in the same way. Size and time are bounded. Left out: proxies,
which would resolve the name again, cookies, passwords, and schemes other than http and https.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from urllib.parse import urljoin, urlsplit

from contextcir.data.images import ImageError

MAX_REDIRECTS = 5
MAX_ADDRESSES = 3  # that are tried: each takes time, and an untrusted DNS decides how many there are
_REDIRECTS = (301, 302, 303, 307, 308)
_UNICAST = ipaddress.ip_network("2000::/3")  # all assigned public IPv6; `is_global` accepts more
# Global addresses, but a gateway may forward them to a private IPv4 address that they contain (6to4, Teredo)
_GATEWAYS = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/32")))


def fetch_public(url: str, *, max_bytes: int = 20_000_000, timeout: float = 30.0) -> bytes:
    """
    Download the content of a URL.

    Args:
        url (`str`): `http` or `https`.
        max_bytes (`int`, defaults to 20,000,000): Larger files are an error.
        timeout (`float`, defaults to 30): Seconds for one request; each redirect is one more request.

    Raises:
        [`~contextcir.data.images.ImageError`]: The URL cannot or must not be downloaded. The message names the URL and
            the reason.
    """
    current = url
    for _ in range(MAX_REDIRECTS + 1):
        try:
            content, current = _get(current, max_bytes, timeout)
        except ImageError as error:
            raise ImageError(f"{url}: {error}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a malformed URL
            raise ImageError(f"{url}: cannot be downloaded ({type(error).__name__}: {error}).") from None
        if content is not None:
            return content
    raise ImageError(f"{url}: redirects more than {MAX_REDIRECTS} times.")


def _get(url: str, max_bytes: int, timeout: float) -> tuple[bytes | None, str]:
    """Return the content and the URL, or `None` and the URL that it redirects to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ImageError(f"expected http:// or https://, a host and no password, got {parts.scheme}://…")
    secure = parts.scheme == "https"
    default_port = 443 if secure else 80
    port = parts.port or default_port
    sock = _connect(parts.hostname, port, timeout)
    # The timeout of a socket is for one packet. The timer also ends a connection that sends a few bytes at a time.
    timer = threading.Timer(timeout, lambda: _shut_down(sock))  # the TLS socket, once that has replaced the plain one
    timer.start()
    try:
        if secure:
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname, do_handshake_on_connect=False)
            sock.do_handshake()
        connection = http.client.HTTPConnection(parts.hostname, port)  # without a port, it looks for one in an IPv6
        connection.default_port = default_port  # the Host header omits this one
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "contextcir", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and response.headers.get("Location"):
            return None, urljoin(url, response.headers["Location"])
        if response.status != 200:
            raise ImageError(f"the server answered {response.status} {response.reason}.")
        content = response.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ImageError(f"is larger than {max_bytes:,} bytes.")
        if not timer.is_alive() or response.length:  # bytes that were announced and not received
            raise ImageError(f"is incomplete: the connection ended after {len(content):,} bytes (limit {timeout:g}s).")
        return content, url
    finally:
        timer.cancel()
        sock.close()


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to one of the addresses of a host, all of which must be public."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address):
            raise ImageError(f"{host} is at {address}, which is not a public address.")
    problem = OSError(f"{host} has no address")
    for address in addresses[:MAX_ADDRESSES]:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            problem = error
    raise problem


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.version == 6 and (ip not in _UNICAST or any(ip in network for network in _GATEWAYS)):
        return False
    return ip.is_global and not ip.is_multicast


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # already closed
        pass
