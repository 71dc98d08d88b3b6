"""Takes the screenshots of README.md and docs/explain.md: the real page of a real search.

    python -m benchmarks.screenshots

Indexes examples/data/astronomy, serves the page and photographs it in chromium, which needs chromium and
chromedriver (apt-get install chromium chromium-driver) and selenium (extra `test`).
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

IMAGES = Path("docs/img")
QUERY = "why do stars explode"
SIZE = (1100, 900)


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        location = str(Path(folder, "index"))
        splade = [sys.executable, "-m", "splade_retriever"]
        subprocess.run(
            [*splade, "index", "examples/data/astronomy", "--to", location, "--base", "."], check=True
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen([*splade, "serve", "--index", location, "--port", str(port)])
        try:
            _wait_for(port)
            for theme in ("light", "dark"):
                _photograph(f"http://127.0.0.1:{port}/#q={QUERY.replace(' ', '+')}", theme)
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


def _photograph(address: str, theme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver = _chromium()
    try:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.set_window_size(*SIZE)
        driver.get(address)
        waiting = WebDriverWait(driver, 60)
        waiting.until(lambda _: driver.find_elements("css selector", ".tokens button"))
        expansion = driver.find_element("css selector", ".tokens .query")
        driver.execute_script("arguments[0].parentElement.focus({preventScroll: true})", expansion)
        waiting.until(lambda _: driver.find_elements("css selector", "mark.chosen"))
        # The time of an answer differs from picture to picture.
        driver.execute_script("document.querySelector('#status').textContent = '5 hits'")
        driver.save_screenshot(str(IMAGES / f"page-{theme}.png"))
    finally:
        driver.quit()


def _chromium() -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


if __name__ == "__main__":
    main()
