"""Takes the pictures of README.md and docs/explain.md: the real page of a real search, and a plot.

    python -m benchmarks.screenshots

Indexes examples/data/astronomy, serves the page and photographs it in chromium, as wide as a desktop and as a
phone, in light and dark colours. This needs chromium and chromedriver (apt-get install chromium
chromium-driver), and selenium and matplotlib (extra `test`).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from splade_retriever import SpladeIndex

IMAGES = Path("docs/img")
QUERY = "why do stars explode"
SIZES = {"": (1100, 900), "-phone": (360, 800)}
"""What is added to the file's name -> width and height."""
PLOTTED = "A supernova is the explosion of a massive star."


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        location = str(Path(folder, "index"))
        splade = [sys.executable, "-m", "splade_retriever"]
        _plot()
        subprocess.run(
            [*splade, "index", "examples/data/astronomy", "--to", location, "--base", "."], check=True
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen([*splade, "serve", "--index", location, "--port", str(port)])
        try:
            _wait_for(port)
            driver = _chromium()
            try:
                for name, size in SIZES.items():
                    for theme in ("light", "dark"):
                        address = f"http://127.0.0.1:{port}/#q={QUERY.replace(' ', '+')}"
                        _photograph(driver, address, IMAGES / f"page{name}-{theme}.png", theme, size)
            finally:
                driver.quit()
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("The page was not served within two minutes.")


def _plot() -> None:
    """Draw the example of docs/explain.md."""
    import matplotlib as mpl

    with SpladeIndex() as index, mpl.rc_context({"svg.hashsalt": "splade", "svg.fonttype": "none"}):
        index.add([PLOTTED])
        figure = index.explain(QUERY, index.search(QUERY)[0]).plot(max_tokens=10)
        figure.savefig(IMAGES / "score.svg", metadata={"Date": None})


def _photograph(driver: Any, address: str, file: Path, theme: str, size: tuple[int, int]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    driver.get("about:blank")
    driver.get(address)
    waiting = WebDriverWait(driver, 60)
    waiting.until(lambda _: driver.find_elements("css selector", ".tokens button"))
    expansion = driver.find_element("css selector", ".tokens .query")
    driver.execute_script("arguments[0].parentElement.focus({preventScroll: true})", expansion)
    waiting.until(lambda _: driver.find_elements("css selector", "mark.chosen"))
    # The time of an answer differs from picture to picture.
    driver.execute_script("document.querySelector('#status').textContent = '5 hits'")
    driver.save_screenshot(str(file))


def _chromium() -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


if __name__ == "__main__":
    main()
