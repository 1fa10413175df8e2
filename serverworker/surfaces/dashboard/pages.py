"""What anybody may have: the page itself, which knows nothing before somebody logs in."""

from __future__ import annotations

from pathlib import Path

from serverworker.surfaces.dashboard.exchange import Answer

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"


def read_pages() -> dict[str, Answer]:
    """Each file by its path, read once: no request ever names a file. Raises OSError."""
    pages = {
        f"/{path.name}": Answer(content_type=_TYPES[path.suffix], body=path.read_bytes())
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in _TYPES
    }
    pages["/"] = pages.pop(f"/{_INDEX}")
    return pages
