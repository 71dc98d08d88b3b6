"""Views for notebooks and plots: one palette, text as text, colour and pattern for each kind of token."""

import copy
import pickle
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from splade_retriever import Explanation, Hit, SparseEmbedding, SpladeIndex
from splade_retriever.drawing.palette import DARK, LIGHT, STYLES, style_sheet
from splade_retriever.errors import InputError
from splade_retriever.explanation.contributions import KINDS
from splade_retriever.index.documents import Hits
from tests.python_process import run_python

QUERY = "why do stars explode"
HOSTILE = "</style></td><script>alert(1)</script> <img src=x onerror=alert(1)> star \u202e \x1b"


@pytest.fixture(scope="module")
def index() -> Iterator[SpladeIndex]:
    with SpladeIndex() as opened:
        opened.add(
            ["A supernova is the explosion of a massive star. " + "Dust. " * 100, HOSTILE],
            [{"year": 1}, {HOSTILE: HOSTILE}],
            ["supernova", HOSTILE],
        )
        yield opened


@pytest.fixture(scope="module")
def explanation(index: SpladeIndex) -> Explanation:
    return index.explain(QUERY, index.search(QUERY)[0], origins=True)


def luminance(colour: str) -> float:
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


# -- the palette ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_is_readable_on_every_ground(colours: dict[str, str]) -> None:
    for ground in ("paper", "panel"):
        for text in ("ink", "quiet", "chosen"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for ground in ("mark", "mark-expanded"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground


def test_each_kind_has_a_colour_and_a_pattern_that_no_other_kind_has() -> None:
    assert tuple(STYLES) == KINDS
    assert len({style.hatch for style in STYLES.values()}) == len(KINDS)
    assert len({LIGHT[style.colour] for style in STYLES.values()}) == len(KINDS)
    assert LIGHT.keys() == DARK.keys()
    for style in STYLES.values():
        assert f".splade .bar.{style.css_class} {{ color: var(--{style.colour});" in style_sheet()


# -- notebooks -----------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a view, after checking that each is closed, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._within: list[str] = []
        self.feed(html)
        self.close()
        assert self._within == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._within.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if "style" in self._within else data


def test_every_view_shows_hostile_text_as_text(index: SpladeIndex) -> None:
    hits = index.search("star")
    hostile = next(hit for hit in hits if hit.id == HOSTILE)
    views = [
        hits,
        hostile,
        index.explain("star", hostile, origins=True),
        index.explain(HOSTILE, hostile),
        index.why_not("dust", HOSTILE, k=1),
    ]

    for view in views:
        found = Tags(view._repr_html_())  # type: ignore[attr-defined]
        assert not {"script", "img"} & found.tags
        assert not {name for name in found.attributes if name.startswith("on")}
        assert "<script>alert(1)</script>" in found.text
        assert not {"\x1b", "\u202e"} & set(found.text)


def test_hits_are_a_list_that_a_notebook_draws(index: SpladeIndex) -> None:
    hits: Any = index.search("star dust")

    assert isinstance(hits, list)
    assert hits == list(hits)
    for several in (
        hits,
        hits[:1],
        copy.copy(hits),
        pickle.loads(pickle.dumps(hits)),
        index.get(["supernova"]),
    ):
        assert isinstance(several, Hits)
    assert isinstance(hits[0], Hit)
    assert isinstance(index.search_batch(["star"])[0], Hits)
    drawn = Tags(Hits(hits)._repr_html_())
    assert drawn.text.count("(score ") == len(hits) == 2
    assert "complete text" in drawn.text
    assert "No hits." in Tags(index.search("")._repr_html_()).text  # type: ignore[attr-defined]


def test_a_view_of_an_explanation_links_tokens_and_the_words_they_come_from(explanation: Explanation) -> None:
    html = explanation._repr_html_()
    text = Tags(html).text
    place = next(n for n, c in enumerate(explanation.contributions) if c.token == "explode")

    assert f'<tr data-n="{place}"><th scope="row">explode</th>' in html
    (mark,) = [part for part in html.split("<mark ")[1:] if ">explosion</mark>" in part]
    assert str(place) in mark.split('data-n="')[1].split('"')[0].split()
    assert "text expanded: explosion" in text
    assert f"{QUERY}: score {explanation.score:.3f}" in text
    assert "not matched: why, do" in text


def test_a_vector_is_drawn_with_its_largest_weights_first() -> None:
    found = Tags(SparseEmbedding.from_dict({n: float(n) for n in range(1, 31)})._repr_html_()).text

    assert "SparseEmbedding, 30 active dimensions" in found
    assert found.index("3030.000") < found.index("2929.000")
    assert "and 10 smaller weights" in found


# -- plots ---------------------------------------------------------------------------------------------------


@pytest.fixture
def matplotlib() -> Any:
    return pytest.importorskip("matplotlib", reason="needs the extra `plot`")


def test_a_plot_of_an_explanation_has_a_pattern_per_kind_and_is_saved_as_png_and_svg(
    matplotlib: Any, explanation: Explanation, tmp_path: Path
) -> None:
    figure = explanation.plot(max_tokens=5)
    axes: Any = figure.axes[0]
    shown = explanation.contributions[:5]

    assert [label.get_text() for label in axes.get_yticklabels()] == [c.token for c in shown]
    assert [bar.get_width() for bar in axes.patches] == [c.score for c in shown]
    assert [bar.get_hatch() or "" for bar in axes.patches] == [STYLES[c.kind].hatch for c in shown]
    kinds = [kind for kind in KINDS if kind in {c.kind for c in shown}]
    assert [text.get_text() for text in figure.legends[0].texts] == [STYLES[kind].words for kind in kinds]
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert figure.axes[0].get_title() == ""


def test_a_plot_of_a_vector_shows_which_tokens_the_model_added(matplotlib: Any, index: SpladeIndex) -> None:
    vector, tokenizer = index.query_vector(QUERY), index.model.tokenizer  # type: ignore[attr-defined]

    with_ids, named = vector.plot(), vector.plot(tokenizer, text=QUERY)
    of_tokens = index.model.tokens_and_weights(vector).plot(max_tokens=3)  # type: ignore[attr-defined]

    names = [label.get_text() for label in named.axes[0].get_yticklabels()]
    hatched = {name for name, bar in zip(names, named.axes[0].patches, strict=True) if bar.get_hatch()}
    assert set(names) - hatched == {"why", "do", "stars", "explode"}
    assert [text.get_text() for text in named.legends[0].texts] == ["in the text", "added by the model"]
    assert with_ids.axes[0].get_yticklabels()[0].get_text().isdigit()
    assert [label.get_text() for label in of_tokens.axes[0].get_yticklabels()] == names[:3]


def test_a_plot_of_nothing_and_of_hostile_tokens_is_drawn(matplotlib: Any, index: SpladeIndex) -> None:
    from splade_retriever.drawing.plot import Bar, bar_chart

    assert SparseEmbedding.from_dict({}).plot()._repr_png_()
    figure = bar_chart([Bar("$x^", 1.0), Bar("\x1b\\alpha$$", 0.5)], axis="Weight", max_tokens=5)
    assert figure._repr_png_()


@pytest.mark.parametrize("max_tokens", [0, True, "5"])
def test_a_wrong_number_of_tokens_is_an_error(
    matplotlib: Any, explanation: Explanation, max_tokens: Any
) -> None:
    with pytest.raises(InputError, match=r"max_tokens is .*, expected an int of 1 or more"):
        explanation.plot(max_tokens=max_tokens)


def test_a_text_without_a_tokenizer_is_an_error(matplotlib: Any) -> None:
    with pytest.raises(InputError, match=r"no tokenizer that reads it. Pass the model's"):
        SparseEmbedding.from_dict({1: 1.0}).plot(text="moon")


def test_without_matplotlib_the_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from splade_retriever import SparseEmbedding\n"
        "SparseEmbedding.from_dict({1: 1.0}).plot()"
    )
    done = run_python(script)

    assert done.stderr.strip().endswith(
        "MissingExtraError: plot() needs matplotlib, which is not installed. Run: "
        'pip install "splade-retriever[plot]"'
    )
