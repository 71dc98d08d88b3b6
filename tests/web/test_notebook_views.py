"""The views of notebooks in a real browser: colours, the pointer, hostile text, narrow windows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import SpladeIndex
from tests.web.test_page import DARK, LIGHT, Page

pytestmark = pytest.mark.browser

QUERY = "why do stars explode"


@pytest.fixture(scope="module")
def file(index: SpladeIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with one view of each kind, as a notebook puts them below its cells."""
    hits: Any = index.search(QUERY)
    vector = index.query_vector(QUERY)
    (hostile,) = index.get(["hostile"])
    views: list[Any] = [
        hits,
        index.search("comet"),
        index.explain(QUERY, index.get(["supernova"])[0], origins=True),
        index.explain("comet rocket", hostile),
        index.why_not(QUERY, "rings", k=1),
        vector,
        index.model.tokens_and_weights(vector),  # type: ignore[attr-defined]
        hostile,
    ]
    sections = "".join(f"<section>{view._repr_html_()}</section>" for view in views)
    file = tmp_path_factory.mktemp("views") / "notebook.html"
    head = "<head><meta charset='utf-8'><title>Notebook</title></head>"
    body = f"<body><main><h1>Notebook</h1>{sections}</main></body>"
    file.write_text(f"<!doctype html><html lang='en'>{head}{body}</html>", "utf-8")
    return file


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Page]:
    browser.set_window_size(1200, 900)
    browser.get(file.as_uri())
    yield Page(browser)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def use_system_theme(page: Page, theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def background(page: Page) -> str:
    script = "return getComputedStyle(document.querySelector('.splade')).backgroundColor"
    return str(page.driver.execute_script(script))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_rule_of_axe_is_broken_and_a_phone_shows_all(page: Page, theme: str) -> None:
    use_system_theme(page, theme)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )

    assert background(page) == {"light": LIGHT, "dark": DARK}[theme]
    assert page.driver.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.violations() == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("document.body.dataset.jpThemeLight = 'false'", DARK),
        ("document.body.dataset.jpThemeLight = 'true'", LIGHT),
        ("document.body.className = 'vscode-dark'", DARK),
        ("document.body.className = 'vscode-light'", LIGHT),
        ("document.documentElement.setAttribute('theme', 'dark')", DARK),
    ],
)
def test_the_theme_of_the_notebook_overrides_the_system(page: Page, script: str, expected: str) -> None:
    use_system_theme(page, "light" if expected == DARK else "dark")
    page.driver.execute_script(script)

    assert background(page) == expected


def test_the_pointer_on_a_token_outlines_the_word_that_it_comes_from(page: Page) -> None:
    rows = page.all("section:nth-of-type(3) tbody tr")
    exploded = next(row for row in rows if row.text.startswith("explode "))
    word = next(mark for mark in page.all("section:nth-of-type(3) mark") if mark.text == "explosion")

    def outlined(element: Any) -> bool:
        return bool(element.value_of_css_property("outline-style") == "solid")

    assert not outlined(word)
    page.hover(exploded)
    assert page.wait(lambda: outlined(word))
    page.hover(word)
    assert page.wait(lambda: outlined(exploded))


def test_hostile_text_of_a_view_is_shown_as_text(page: Page) -> None:
    shown = page.texts("section:nth-of-type(4) .text")[0]

    assert "<script>document.title=" in shown
    assert page.all("section script, section img") == []
    assert page.driver.title == "Notebook"
    assert page.console() == []
