"""An index behind a real server, and a real browser in front of it."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from splade_retriever import SpladeIndex
from splade_retriever.web.server import create_app, server_config

HOSTILE = (
    'The comet <img src=x onerror="document.title=\'hacked\'"> <script>document.title="hacked"</script> '
    "\u202e reversed \x1b[31m and a 🚀 rocket near the comet."
)
DOCUMENTS = {
    "supernova": "A supernova is the explosion of a massive star.",
    "chandrayaan": "Chandrayaan-3 landed near the lunar south pole in August 2023.",
    "rings": "The rings of Saturn are made of ice and rock.",
    "star": "A star is born in a cloud of gas, and stars end in explosions.",
    "hostile": HOSTILE,
}


@contextlib.contextmanager
def served(index: SpladeIndex, **options: Any) -> Iterator[str]:
    """Serve an index on a free port; yields the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(server_config(create_app(index, **options), host="127.0.0.1", port=port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def index() -> Iterator[SpladeIndex]:
    with SpladeIndex() as opened:
        opened.add(
            list(DOCUMENTS.values()), [{"year": 2020 + n} for n in range(len(DOCUMENTS))], list(DOCUMENTS)
        )
        opened.query_vector("load the model")
        yield opened


@pytest.fixture(scope="session")
def address(index: SpladeIndex) -> Iterator[str]:
    with served(index) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start chromium; skip by name where it or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra `test`)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options, webdriver.chrome.service.Service(driver))
    yield started
    started.quit()
