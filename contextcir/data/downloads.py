"""Download an image from the public internet, and from nowhere else.

A list of image URLs is input from strangers: it may point, by itself, through its DNS or over a redirect, at a cloud's
metadata service or a printer in the local network. So the name is resolved once, every address must be public, and the
connection goes to the very address that was checked; each redirect starts over. Size and time are bounded. Left out:
proxies, which would resolve the name a second time, and cookies, passwords and other schemes than http and https.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from urllib.parse import urljoin, urlsplit

from contextcir.data.images import ImageError

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out: is_global takes more for public
# Public by themselves, but a gateway may lead from there to a private IPv4 address that they hold
_GATEWAYS = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/32")))


def fetch_public(url: str, *, max_bytes: int = 20_000_000, timeout: float = 30.0) -> bytes:
    """
    The content of a URL.

    Args:
        url (`str`): `http` or `https`.
        max_bytes (`int`, defaults to 20,000,000): Larger files are refused.
        timeout (`float`, defaults to 30): Seconds for one request, of which redirects may make several.

    Raises:
        [`~contextcir.data.images.ImageError`]: It cannot or must not be downloaded; says why.
    """
    here = url
    for _ in range(MAX_REDIRECTS + 1):
        try:
            content, here = _get(here, max_bytes, timeout)
        except ImageError as error:
            raise ImageError(f"{url}: {error}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a URL that cannot be read
            raise ImageError(f"{url}: cannot be downloaded ({type(error).__name__}: {error}).") from None
        if content is not None:
            return content
    raise ImageError(f"{url}: redirects more than {MAX_REDIRECTS} times.")


def _get(url: str, max_bytes: int, timeout: float) -> tuple[bytes | None, str]:
    """The content and the URL, or `None` and where it has gone."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ImageError(f"expected http:// or https://, a host and no password, got {parts.scheme}://…")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    sock = _connect(parts.hostname, port, timeout)
    # The time-out of a socket is that of one packet; a server that drips bytes is cut off by the clock.
    clock = threading.Timer(timeout, lambda: _cut_off(sock))
    clock.start()
    try:
        if secure:
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=parts.hostname, do_handshake_on_connect=False)
            sock.do_handshake()
        connection = http.client.HTTPConnection(parts.hostname, port)  # a port, or it would look for one in an IPv6
        connection.default_port = 443 if secure else 80  # which the Host header leaves out
        connection.sock = sock
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "contextcir", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and response.headers.get("Location"):
            return None, urljoin(url, response.headers["Location"])
        if response.status != 200:
            raise ImageError(f"the server said {response.status} {response.reason}.")
        content = response.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ImageError(f"is larger than {max_bytes:,} bytes.")
        if not clock.is_alive() or response.length:  # what is left to read of the length that was announced
            raise ImageError(f"was cut off (after {len(content):,} bytes; at most {timeout:g} s).")
        return content, url
    finally:
        clock.cancel()
        sock.close()


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to one of a host's addresses, all of which must be public."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    for address in addresses:
        if not is_public(address):
            raise ImageError(f"{host} is at {address}, which is not a public address.")
    problem: OSError | None = None
    for address in addresses[:3]:  # each takes its time, and a stranger's DNS says how many there are
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            problem = error
    raise problem or OSError(f"{host} has no address")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.version == 6 and (ip not in _UNICAST or any(ip in network for network in _GATEWAYS)):
        return False
    return ip.is_global and not ip.is_multicast


def _cut_off(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed already
        pass
