"""The page in a real browser: search, hover, compare, why-not, keyboard, hostile text, themes, phones."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import SpladeIndex
from tests.web.conftest import HOSTILE, served

pytestmark = pytest.mark.browser

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(23, 23, 27)"


class Page:
    """The page in the browser, read and used by CSS selectors."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, 20, 0.05, (StaleElementReferenceException,))
        return waiting.until(lambda _: condition())

    def type(self, text: str, *, into: str = "#query") -> None:
        field = self.one(into)
        field.clear()
        field.send_keys(text)

    def search(self, query: str) -> None:
        self.type(query)
        self.wait(lambda: self.hits() and self.one("#query").get_property("value") == query)
        self.settled()

    def settled(self) -> None:
        """Wait until the latest request is answered."""
        script = (
            "const done = arguments[0]; const read = () => document.querySelector('#status').textContent;"
            "let before = read(); let same = 0;"
            "const look = () => { const now = read(); same = now === before ? same + 1 : 0; before = now;"
            "same > 5 ? done() : setTimeout(look, 50); }; look();"
        )
        self.driver.execute_async_script(script)

    def hits(self) -> list[str]:
        return [title.split(". ", 1)[1] for title in self.texts("article h2")]

    def hover(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def chosen_words(self, article: int = 1) -> list[str]:
        return self.texts(f"article:nth-of-type({article}) mark.chosen")

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def violations(self) -> list[str]:
        """Run axe-core, and return the rules that the page breaks."""
        axe = os.environ.get("AXE_CORE")
        if axe is None:
            pytest.skip("needs axe-core: npm pack axe-core, and set AXE_CORE to its axe.min.js")
        self.driver.execute_script(Path(axe).read_text("utf-8"))
        script = "const done = arguments[0]; axe.run().then((found) => done(found.violations))"
        return [
            f"{rule['id']}: {[node['html'] for node in rule['nodes']]}"
            for rule in self.driver.execute_async_script(script)
        ]

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    browser.set_window_size(1200, 900)
    browser.get("about:blank")
    browser.get(address)
    opened = Page(browser)
    opened.wait(lambda: "5 documents" in opened.one("#info").text)
    yield opened
    assert opened.console() == []


def token(page: Page, name: str, article: int = 1) -> Any:
    path = f"article:nth-of-type({article}) .tokens button"
    return next(button for button in page.all(path) if button.text.split("\n")[0] == name)


def test_a_search_runs_at_each_keystroke_and_marks_the_words(page: Page) -> None:
    page.search("why do stars explode")

    assert page.hits()[:2] == ["star", "supernova"]
    assert "stars" in page.texts("article:nth-of-type(1) mark")
    assert re.fullmatch(r"\d hits in [\d.]+ ms", page.one("#status").text)
    assert "q=why" in page.driver.current_url


def test_hovering_a_token_highlights_its_words_and_hovering_a_word_its_tokens(page: Page) -> None:
    page.search("stars")

    page.hover(token(page, "stars"))
    assert page.wait(page.chosen_words) == ["stars"]
    page.hover(page.one("article:nth-of-type(1) mark[data-start='2']"))
    chosen = page.wait(lambda: page.texts("article:nth-of-type(1) .tokens .chosen .name"))
    assert "star" in chosen


def test_hovering_an_expansion_shows_the_word_that_it_comes_from(page: Page) -> None:
    page.search("explode")

    article = 1 + page.hits().index("supernova")
    page.hover(token(page, "explode", article))

    assert page.wait(lambda: page.chosen_words(article)) == ["explosion"]


def test_two_hits_are_compared_token_by_token(page: Page) -> None:
    page.search("why do stars explode")
    for button in page.all(".head button")[:2]:
        button.click()

    rows = [row.text for row in page.all("#comparison tbody tr")]
    scores = [float(text.split()[1]) for text in page.texts("article .score")[:2]]

    assert page.texts("#comparison thead th") == ["token", "star", "supernova", "difference"]
    assert [button.get_attribute("aria-pressed") for button in page.all(".head button")[:2]] == ["true"] * 2
    assert rows[-1].split() == [
        "sum",
        f"{scores[0]:.3f}",
        f"{scores[1]:.3f}",
        f"{scores[1] - scores[0]:+.3f}",
    ]


def test_why_not_shows_the_reasons(page: Page) -> None:
    page.type('{"year": 2021}', into="#filter")
    page.search("lunar south pole")
    page.type("rings", into="#missing")
    page.one("#why-not button").click()

    reasons = page.wait(lambda: page.texts("#reasons li"))

    assert reasons[0].startswith("The filter {'year': 2021} does not match the document. It has year=2022.")
    page.type("nothing", into="#missing")
    page.one("#why-not button").click()
    page.wait(lambda: "no document with the id 'nothing'" in page.one("#error").text)
    page.driver.get_log("browser")  # chromium logs the status 400


def test_a_filter_and_the_syntax_narrow_the_hits(page: Page) -> None:
    page.search("stars explode")
    page.type('{"year": 2020}', into="#filter")
    page.wait(lambda: page.hits() == ["supernova"])
    page.type("", into="#filter")
    page.one("#filter").send_keys(" ")
    page.one("#syntax").click()
    page.type("stars -supernova")

    page.wait(lambda: "star" in page.hits() and "supernova" not in page.hits())
    page.one("#filter").send_keys("{")
    page.wait(lambda: "The filter is not JSON" in page.one("#error").text)


def test_a_late_answer_does_not_remove_the_error_of_a_later_keystroke(page: Page) -> None:
    slow = (
        "const fetched = window.fetch; window.late = 0;"
        "window.fetch = async (...request) => { const answer = await fetched(...request);"
        " await new Promise((done) => setTimeout(done, 200));"
        " setTimeout(() => { window.late += 1; }); return answer; };"
    )
    page.search("stars")
    page.driver.execute_script(slow)
    page.one("#query").send_keys(" a")
    page.one("#filter").send_keys("{")
    page.wait(lambda: page.driver.execute_script("return window.late") == 2)

    assert "The filter is not JSON" in page.one("#error").text


def test_editing_a_weight_changes_the_ranking_and_the_scores(page: Page) -> None:
    page.search("ice explosion")
    before = page.hits()
    fields = page.all("#weights input[type=number]")
    names = page.texts("#weights span")

    for field, name in zip(fields, names, strict=True):
        if name.removeprefix("~") != "ice":
            page.driver.execute_script(
                "arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))", field
            )

    page.wait(lambda: page.hits() == ["rings"])
    page.one("#reset").click()
    page.wait(lambda: page.hits() == before)


def test_the_keyboard_alone_searches_explains_and_compares(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.driver.execute_script("document.activeElement.blur()")
    page.press("/")
    page.press("why do stars explode")
    page.wait(lambda: page.hits()[:1] == ["star"])
    page.settled()
    focused: list[str] = []
    for _ in range(80):
        page.press(Keys.TAB)
        name = page.driver.execute_script(
            "return document.activeElement.className + document.activeElement.id"
        )
        focused.append(page.driver.switch_to.active_element.text or name)
        if page.driver.execute_script("return !!document.activeElement.closest('.tokens')"):
            break
    else:
        pytest.fail(f"no token was reached: {focused}")
    first = page.driver.switch_to.active_element.text
    page.press(Keys.ARROW_DOWN)
    second = page.driver.switch_to.active_element.text

    assert "Compare" in focused
    assert first != second
    assert page.driver.execute_script("return document.activeElement.classList.contains('chosen')")


def test_the_keyboard_goes_from_a_word_to_its_tokens(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.search("why do stars explode")
    page.driver.execute_script("document.querySelector('article mark').focus()")
    word = page.driver.switch_to.active_element.text
    tokens = page.texts("article .tokens .chosen .name")
    page.press(Keys.ARROW_RIGHT)
    other = page.driver.switch_to.active_element

    assert tokens
    assert other.tag_name == "mark"
    assert other.get_attribute("tabindex") == "0"
    assert page.texts("article mark.chosen") == [other.text]
    page.press(Keys.ARROW_LEFT)
    assert page.driver.switch_to.active_element.text == word
    assert (
        page.driver.execute_script(
            "return document.querySelectorAll('article:first-of-type mark[tabindex=\"0\"]').length"
        )
        == 1
    )


def test_hostile_text_is_shown_as_text(page: Page) -> None:
    page.search("comet rocket")

    shown = page.one("article .text").text

    assert '<img src=x onerror="document.title=' in shown
    assert "<script>" in shown
    assert "\\u202e" in shown
    assert "\\u001b" in shown
    assert not {"\u202e", "\x1b"} & set(shown)
    assert page.all("article img, article script") == []
    assert page.driver.title == "SPLADE search"
    assert "rocket" in page.texts("article mark")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_no_rule_of_axe_is_broken(page: Page, theme: str, width: int) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        page.search("why do stars explode")
        for button in page.all(".head button")[:2]:
            button.click()
        page.type("rings", into="#missing")
        page.one("#why-not button").click()
        page.wait(lambda: page.all("#reasons > *"))
        overflow = page.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")

        assert background(page) == {"light": LIGHT, "dark": DARK}[theme]
        assert overflow <= 0
        assert page.violations() == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def background(page: Page) -> str:
    return str(page.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))


def test_the_switch_of_colours_overrides_the_system_and_is_stored(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    features = [{"name": "prefers-color-scheme", "value": "light"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        before = background(page)
        page.driver.execute_script("document.querySelector('#theme').focus()")
        page.press("D")
        switched = page.wait(lambda: background(page) == DARK)
        page.driver.refresh()
        page.wait(lambda: page.one("#theme").get_property("value") == "dark")
        after_reload = background(page)
        broken = page.violations() if os.environ.get("AXE_CORE") else []
        page.driver.execute_script("document.querySelector('#theme').focus()")
        page.press(Keys.HOME)
        page.wait(lambda: background(page) == LIGHT)

        assert (before, switched, after_reload, broken) == (LIGHT, True, DARK, [])
        assert page.one("label[for=theme]").text == "Colours"
        features[0]["value"] = "dark"
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert background(page) == DARK, "the first choice follows the system"
    finally:
        page.driver.execute_script("localStorage.clear()")
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_page_with_a_token_searches_with_it_and_not_without(browser: Any, index: SpladeIndex) -> None:
    with served(index, token="secret") as url:
        page = Page(browser)
        browser.get("about:blank")
        browser.get(f"{url}/#token=secret")
        page.wait(lambda: "5 documents" in page.one("#info").text)
        page.search("stars")
        assert page.hits()
        assert page.console() == []
        browser.get("about:blank")
        browser.get(f"{url}/#q=stars")
        page.wait(lambda: "The token is missing or wrong" in page.one("#error").text)
        browser.get_log("browser")


def test_an_explanation_in_one_file_loads_nothing_and_shows_hostile_text_as_text(
    browser: Any, tmp_path: Path
) -> None:
    file = tmp_path / "out.html"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "splade_retriever",
            "explain",
            "comet <b>rocket</b>",
            HOSTILE,
            "--html",
            str(file),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    browser.get(file.as_uri())
    page = Page(browser)

    assert "<script>" in page.one("article .text").text
    assert "rocket" in page.texts("mark")
    assert page.one("h1").text == "comet <b>rocket</b>"
    page.hover(page.one(".tokens button"))
    assert page.wait(page.chosen_words)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert loaded == 0
    assert page.console() == []
    assert page.violations() == []
