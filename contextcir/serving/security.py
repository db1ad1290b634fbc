"""Guard a server: who may ask, what browsers may do with the answers, and what is written about requests.

Nothing that a user has typed or chosen is logged: a line has the method, the route (not the address), the status and
the time.
"""

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contextcir.serving.errors import RefusedError
from contextcir.serving.settings import Settings

logger = logging.getLogger("contextcir.serving")

OPEN = ("/", "/health", "/openapi.json")  # without a token; and the files of the page
STATIC = "/static/"
NOBODY = "'none'"
HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # no other site may show the pictures
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def headers_of(settings: Settings) -> dict[str, str]:
    """The headers of every answer. X-Frame-Options knows no list of sites: browsers that have frame-ancestors ignore
    it."""
    policy = f"{HEADERS['Content-Security-Policy']}; frame-ancestors {' '.join(settings.frames) or NOBODY}"
    return HEADERS | {"Content-Security-Policy": policy} | ({} if settings.frames else {"X-Frame-Options": "DENY"})


class Guard:
    """
    Middleware around all routes.

    Args:
        app: The application.
        settings ([`~contextcir.serving.settings.Settings`]): Token and names of the server.
        observe (`Callable`): Is told the route, the status and the seconds of each request.
    """

    def __init__(self, app: ASGIApp, settings: Settings, observe: Callable[[str, int, float], None]):
        self.app, self.settings, self.observe = app, settings, observe
        self.headers = headers_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, receive, send_with_headers)
        except RefusedError as refusal:
            await refusal.response()(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = 499  # nobody waits for the answer
        except asyncio.CancelledError:  # the server stops, and does not wait any longer
            if not status:
                await RefusedError(503, "The server is stopping.").response()(scope, receive, send_with_headers)
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s at %s\n%s", type(error).__name__, _route(scope), frames)  # its message may quote a text
            if not status:
                answer = RefusedError(500, "The server made a mistake. Its log says where.").response()
                await answer(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - begin
            self.observe(_route(scope), status, seconds)
            logger.info("%s %s %s %.0f ms", scope["method"], _route(scope), status, 1000 * seconds)

    def check(self, scope: Scope) -> None:
        """Raise a `RefusedError` if a request is not for this server (421), comes from another site (403), or has no
        token (401)."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.settings.hosts is not None and _name(host) not in self.settings.hosts:
            raise RefusedError(421, f"This server is not called {host[:100]!r}, but {', '.join(self.settings.hosts)}.")
        origin = headers.get("origin")
        # A proxy may forward under its own name. Pages of other sites cannot set this header: browsers ask us before.
        names = {host.lower(), headers.get("x-forwarded-host", host).lower()}
        if origin is not None and urlsplit(origin).netloc.lower() not in names:
            raise RefusedError(403, "Pages of other sites may not ask this server.")
        path = scope["path"]
        if self.settings.token is None or path in OPEN or path.startswith(STATIC):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secrets.compare_digest(given.encode(), self.settings.token.encode()):
            raise RefusedError(401, "This server asks for its token.", {"WWW-Authenticate": "Bearer"})


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    return host.partition("]")[0].lstrip("[").lower() if host.startswith("[") else host.partition(":")[0].lower()


def _route(scope: Scope) -> str:
    """The route of a request, such as `/images/{id}`. Addresses that have none share a name."""
    found = getattr(scope.get("route"), "path", None)
    return found or ("static" if scope["path"].startswith(STATIC) else "none")
