"""The web page: static files, read once and sent as they are. Nothing is built, and nothing is loaded from elsewhere."""

from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, Response

_FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
# The page needs nothing from anywhere else, so nothing else may be loaded by it, and no script or style may stand in the document.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(api: FastAPI) -> None:
    """Serve the page at `/`, and its scripts and styles under `/page/`."""
    files = {path.relative_to(_FOLDER).as_posix(): path for path in _FOLDER.rglob("*") if path.suffix in _MEDIA_TYPES}
    contents = {name: (path.read_bytes(), _MEDIA_TYPES[path.suffix]) for name, path in files.items()}
    document = contents.pop("index.html")[0].decode()

    @api.head("/", include_in_schema=False, response_class=HTMLResponse)
    @api.get("/", response_class=HTMLResponse, summary="A page to try it")
    async def show_page() -> HTMLResponse:
        return HTMLResponse(document, headers=_HEADERS)

    @api.head("/page/{name:path}", include_in_schema=False)
    @api.get("/page/{name:path}", include_in_schema=False)
    async def show_file(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404, f"the page has no file {name[:100]!r}")
        content, media_type = contents[name]
        return Response(content, media_type=media_type, headers=_HEADERS)
