"""Serve files that come with the program: pages, style sheets, scripts.

    files = PackagedFiles(Path(__file__).with_name("page"), *SHARED_FILES)
    app.add_route("/static/{name:path}", files.serve)            # /static/style.css, /static/theme.css
    app.add_route("/", files.page("index.html"))

A request can only name one of the files found at start-up; the rest of its path is never given to the file system.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

# The system's table of types differs between machines, and browsers refuse scripts of another type.
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
# Everything comes from this server. Text that a model wrote cannot run scripts or load anything.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
FILE_HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}  # no-cache: ask before using a copy

Endpoint = Callable[[Request], Awaitable[Response]]


class PackagedFiles:
    """The files in some folders, by their path inside the folder, and single files by name.

    Files whose type is not in `CONTENT_TYPES` are left out.
    """

    def __init__(self, *sources: Path) -> None:
        self._paths: dict[str, Path] = {}
        for source in sources:
            found = sorted(source.rglob("*")) if source.is_dir() else [source]
            root = source if source.is_dir() else source.parent
            self._paths |= {path.relative_to(root).as_posix(): path for path in found if path.suffix in CONTENT_TYPES}

    @property
    def names(self) -> list[str]:
        return list(self._paths)

    async def serve(self, request: Request) -> Response:
        """The file called ``name`` in the route's path, or 404."""
        return self.response(request.path_params["name"], request)

    def page(self, name: str) -> Endpoint:
        """An endpoint for one HTML file, with the policy that keeps the page from loading anything from elsewhere.

        Raises:
            KeyError: there is no such file.
        """
        self._paths[name]

        async def endpoint(request: Request) -> Response:
            response = self.response(name, request)
            response.headers.update(PAGE_HEADERS)
            return response

        return endpoint

    def response(self, name: str, request: Request) -> Response:
        """The file called `name`; 304 if the browser has it already, 404 if there is none."""
        path = self._paths.get(name)
        if path is None:
            return Response("not found\n", 404, media_type="text/plain")
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {**FILE_HEADERS, "ETag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=CONTENT_TYPES[path.suffix])
