"""What keeps strangers out of a web page: headers for the browser, and requests that are not answered."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
    "Server": "rlhf-dist",
}


def refusal(message: str, status: int) -> web.Response:
    """An answer that says in one sentence why there is no other."""
    return web.json_response({"error": message}, status=status)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Signal of aiohttp's: puts :data:`HEADERS` on every answer."""
    response.headers.update(HEADERS)


def same_site_only(hosts: frozenset[str], origin: str | None) -> Middleware:
    """A middleware that answers only who asked for this server by one of its names, and not from another site's page.

    The first keeps out a page whose name was made to point here (DNS rebinding), the second one that sends a form or a
    request here with the labeller's cookie (CSRF). SameSite cookies do the same; neither relies on the other.

    Args:
        hosts: the names and addresses that the server goes by, in lower case, without ports.
        origin: `https://name` by which a proxy in front goes, if there is one.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _hostname(request.host) not in hosts:
            return refusal("This server does not go by this name. Open the link as it was given to you.", 403)
        if request.method not in ("GET", "HEAD"):
            sent = request.headers.get("Origin")
            foreign = sent is not None and sent != origin and urlsplit(sent).netloc != request.host
            if foreign or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
                return refusal("This came from another site's page.", 403)
            if request.content_type != "application/json":
                return refusal("Only JSON is understood here.", 415)
        return await handler(request)

    return middleware


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
