"""The documentation site: it builds without a warning, and a page loads nothing from another host."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs mkdocs-material (extra `site`)")

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parent.parent
LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_loads_nothing_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))

    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))
    for page in pages:
        tags = [tag for tag in LOADED.finditer(page.read_text("utf-8")) if 'rel="canonical"' not in tag[0]]
        assert not tags, f"{page.relative_to(site)}: {tags[0][0]}"


def test_the_reference_has_every_public_class_and_command(site: Path) -> None:
    import splade_retriever
    from splade_retriever.cli.commands import app

    python = (site / "reference" / "python" / "index.html").read_text("utf-8")
    for name in splade_retriever.__all__:
        assert name == "__version__" or f'id="splade_retriever.{name}"' in python
    commands = (site / "reference" / "commands" / "index.html").read_text("utf-8")
    for command in app.registered_commands:
        name = str(command.name or getattr(command.callback, "__name__", "")).replace("_", "-")
        assert f'id="splade-{name}"' in commands


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site, served on this machine."""
    handler = functools.partial(_QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (Debian's package)")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_the_start_page_at_every_width(address: str, width: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            f"--window-size={width},900",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--enable-logging=stderr",
            "--dump-dom",
            f"{address}/",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "<h1" in done.stdout
    assert "SPLADE retrieval for LangChain and LlamaIndex" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr
