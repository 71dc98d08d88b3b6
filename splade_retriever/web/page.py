"""The files of the page, and a page in one file that shows one explanation without a server."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any, Final

from splade_retriever.drawing.palette import style_sheet
from splade_retriever.explanation import Explanation
from splade_retriever.printable import printable_json

__all__ = ["CONTENT_SECURITY_POLICY", "explanation_page", "page_file"]

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_file(name: str) -> str:
    """Return the content of a file of the page; the style sheet with the colours and bars of all views."""
    content = _static_file(name)
    return style_sheet() + content if name.endswith(".css") else content


def _static_file(name: str) -> str:
    return files("splade_retriever.web").joinpath("static", name).read_text(encoding="utf-8")


def explanation_page(explanation: Explanation, *, id: str = "", model: str = "") -> str:
    """Return an HTML page that shows an explanation, with all it needs inside; it loads nothing.

    Args:
        explanation: What to show.
        id: Name of the text.
        model: Name of the model.
    """
    style, theme, script = (page_file(name) for name in ("page.css", "theme.js", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_hash_of(style)}; script-src {_hash_of(theme)} {_hash_of(script)}; "
        "base-uri 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(explanation.query)}</title>\n<style>{style}</style>\n<script>{theme}</script>\n</head>\n"
        '<body class="splade">\n'
        f"<header><h1>{escape(explanation.query)}</h1><p>{escape(model)}</p></header>\n"
        '<main id="hits"></main>\n'
        f'<script type="application/json" id="data">{_embedded(_data(explanation, id))}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _data(explanation: Explanation, id: str) -> dict[str, Any]:
    marks = [[mark.start, mark.end, mark.score, mark.in_query] for mark in explanation.marks]
    return {
        "rank": 1,
        "id": id,
        "score": explanation.score,
        "text": explanation.text,
        "metadata": {},
        "explanation": {**explanation.to_dict(), "marks": marks},
    }


def _embedded(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    document = printable_json(json.dumps(data, allow_nan=False))
    return document.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash_of(content: str) -> str:
    digest = base64.b64encode(sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
