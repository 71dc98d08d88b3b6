"""Why a hit was found: contributions that sum to the score, and the words they come from."""

import asyncio
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from rich.console import Console

from splade_retriever import SparseEmbedding, SparseTextEmbedding, SpladeIndex
from splade_retriever.errors import InputError
from splade_retriever.explanation import Explanation, explain, kind_of
from splade_retriever.index.documents import Hit
from tests.index.parts import opened_store
from tests.words import LetterEncoder, WordEncoder, Words, WordTokenizer


@pytest.fixture(scope="module")
def model() -> SparseTextEmbedding:
    return SparseTextEmbedding()


@pytest.fixture(params=["edge", "local", pytest.param("server", marks=pytest.mark.server)])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened_store(request.param, request) as opened:
        yield opened


def of_words(query: str, text: str, query_weights: dict[str, float], text_weights: dict[str, float]) -> Any:
    """Explain with invented weights by word; a word that neither text contains is an expansion."""
    tokenizer = WordTokenizer(512)
    vectors = [
        SparseEmbedding.from_dict({tokenizer.id_of(word): weight for word, weight in weights.items()})
        for weights in (query_weights, text_weights)
    ]
    return explain(query, text, query_vector=vectors[0], document_vector=vectors[1], tokenizer=tokenizer)


def marked(explanation: Explanation) -> list[str]:
    return [explanation.text[start:end] for start, end in explanation.spans]


# -- the sum -------------------------------------------------------------------------------------------------


def test_contributions_are_the_products_of_the_weights_in_descending_order() -> None:
    found = of_words(
        "moon", "a lunar orbit", {"moon": 2.0, "lunar": 1.5}, {"lunar": 3.0, "moon": 1.0, "orbit": 9.0}
    )

    assert [(c.token, c.query_weight, c.document_weight, c.score) for c in found.contributions] == [
        ("lunar", 1.5, 3.0, 4.5),
        ("moon", 2.0, 1.0, 2.0),
    ]
    assert found.score == 6.5


def test_each_token_is_classified_as_literal_or_expanded_on_each_side() -> None:
    weights = {"moon": 1.0, "lunar": 1.0, "orbit": 1.0, "space": 1.0}

    found = of_words("moon orbit", "lunar orbit", weights, weights)

    assert {c.token: kind_of(c) for c in found.contributions} == {
        "orbit": "literal",
        "moon": "text expanded",
        "lunar": "query expanded",
        "space": "both expanded",
    }


@given(
    st.dictionaries(st.integers(0, 50), st.floats(0.125, 8, width=32)),
    st.dictionaries(st.integers(0, 50), st.floats(0.125, 8, width=32)),
)
def test_contributions_sum_to_the_dot_product(query: dict[int, float], text: dict[int, float]) -> None:
    tokenizer = WordTokenizer(10)
    tokenizer._seen = {n: str(n) for n in range(51)}
    query_vector, document_vector = SparseEmbedding.from_dict(query), SparseEmbedding.from_dict(text)

    found = explain("", "", query_vector=query_vector, document_vector=document_vector, tokenizer=tokenizer)

    assert found.score == pytest.approx(query_vector.dot(document_vector), abs=1e-9)
    assert sum(c.score for c in found.contributions) == pytest.approx(found.score)
    assert [c.score for c in found.contributions] == sorted(
        (c.score for c in found.contributions), reverse=True
    )


def test_an_explanation_without_shared_tokens_is_empty() -> None:
    found = of_words("moon", "rover", {"moon": 1.0}, {"rover": 1.0})

    assert (found.score, found.contributions, found.spans) == (0.0, (), ())


# -- the words -----------------------------------------------------------------------------------------------


def test_word_pieces_are_joined_to_the_whole_word(model: SparseTextEmbedding) -> None:
    text = "After Chandrayaan-3, India's rover (Pragyan) drove."
    pieces = model.tokenizer.encode_batch([text])[0]
    chandra = pieces.ids[pieces.offsets.index((6, 13))]
    vector = SparseEmbedding.from_dict({chandra: 1.0})

    found = explain("x", text, query_vector=vector, document_vector=vector, tokenizer=model.tokenizer)

    assert marked(found) == ["Chandrayaan"]


PIECES = {"async": ["as", "##yn", "##c"], "lync": ["l", "##yn", "##c"], "yaml": ["ya", "##ml"]}


class PieceTokenizer(WordTokenizer):
    """`WordTokenizer` that splits some words into pieces."""

    def encode_batch(self, texts: Sequence[str]) -> list[Words]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Words:
        ids, offsets = [], []
        for match in re.finditer(r"\w+", text):
            at = match.start()
            for piece in PIECES.get(match[0].lower(), [match[0]]):
                ids.append(self.id_of(piece))
                offsets.append((at, at + len(piece.removeprefix("##"))))
                at = offsets[-1][1]
        return Words(ids, offsets, 0)


def in_pieces(query: str, text: str, query_weights: dict[str, float], text_weights: dict[str, float]) -> Any:
    tokenizer = PieceTokenizer(512)
    vectors = [
        SparseEmbedding.from_dict({tokenizer.id_of(piece): weight for piece, weight in weights.items()})
        for weights in (query_weights, text_weights)
    ]
    return explain(query, text, query_vector=vectors[0], document_vector=vectors[1], tokenizer=tokenizer)


def test_pieces_of_a_query_word_are_summed_to_the_word() -> None:
    weights = {"parse": 1.0, "ya": 2.0, "##ml": 3.0}

    found = in_pieces("parse YAML", "A yaml parser.", weights, {"ya": 1.0, "##ml": 0.5, "parse": 1.0})

    assert [(c.token, c.score, c.pieces, kind_of(c)) for c in found.contributions] == [
        ("yaml", 3.5, ("ya", "##ml"), "literal"),
        ("parse", 1.0, ("parse",), "text expanded"),
    ]
    assert [(c.query_weight, c.document_weight) for c in found.contributions] == [(5.0, 0.7), (1.0, 1.0)]
    assert [(marked(found), found.marks[0].score, found.marks[0].in_query)] == [(["yaml"], 3.5, True)]


def test_a_query_word_is_found_only_where_its_pieces_are_together() -> None:
    weights = {"as": 1.0, "##yn": 1.0, "##c": 1.0}

    found = in_pieces("async", "as fast as lync", weights, weights)

    (contribution,) = found.contributions
    assert (contribution.token, contribution.score, kind_of(contribution)) == ("async", 3.0, "text expanded")
    assert marked(found) == []
    assert marked(in_pieces("async", "as async", weights, weights)) == ["async"]


def test_a_query_word_is_not_found_in_a_longer_word_that_begins_with_it() -> None:
    found = in_pieces("as", "async", {"as": 1.0}, {"as": 2.0})

    assert [(c.token, kind_of(c)) for c in found.contributions] == [("as", "text expanded")]
    assert found.spans == ()


def test_pieces_of_the_expansion_are_summed_to_the_word_of_the_text() -> None:
    weights = {"l": 1.0, "##yn": 2.0, "##c": 3.0}

    found = in_pieces("chat", "use lync", weights, dict.fromkeys(weights, 1.0))

    assert [(c.token, c.score, kind_of(c)) for c in found.contributions] == [("lync", 6.0, "query expanded")]
    assert [(mark.start, mark.end, mark.score, mark.in_query) for mark in found.marks] == [(4, 8, 6.0, False)]


def test_a_rare_word_of_the_bundled_model_is_one_contribution(model: SparseTextEmbedding) -> None:
    query, text = "parse a yaml file", "Reading YAML files with a parser."
    (of_query,), (of_text,) = model.query_embed(query), model.passage_embed([text])

    found = explain(query, text, query_vector=of_query, document_vector=of_text, tokenizer=model.tokenizer)

    tokens = [contribution.token for contribution in found.contributions]
    assert "yaml" in tokens
    assert not [token for token in tokens if token.startswith("##")]
    assert found.score == pytest.approx(of_query.dot(of_text))


def test_every_occurrence_of_a_contributing_word_is_marked() -> None:
    found = of_words("moon", "Moon, moon! The MOON's rover.", {"moon": 1.0}, {"moon": 1.0, "rover": 5.0})

    assert marked(found) == ["Moon", "moon", "MOON"]


def test_a_mark_records_whether_the_query_contains_the_word() -> None:
    found = of_words("moon", "lunar moon", {"moon": 1.0, "lunar": 1.0}, {"moon": 1.0, "lunar": 1.0})

    assert [(m.start, m.end, m.in_query) for m in found.marks] == [(0, 5, False), (6, 10, True)]


def test_punctuation_is_never_marked(model: SparseTextEmbedding) -> None:
    (vector,) = model.embed("Is it - really?")

    found = explain(
        "- ?", "it - really?", query_vector=vector, document_vector=vector, tokenizer=model.tokenizer
    )

    assert set(marked(found)) <= {"it", "really"}


@given(st.text(max_size=60))
def test_marks_ascend_never_overlap_and_the_pieces_are_the_text(
    model: SparseTextEmbedding, text: str
) -> None:
    ids = sorted(set(model.tokenizer.encode_batch([text])[0].ids))
    vector = SparseEmbedding.from_dict(dict.fromkeys(ids, 1.0))

    found = explain(text, text, query_vector=vector, document_vector=vector, tokenizer=model.tokenizer)

    ends = [0, *(end for _, end in found.spans)]
    assert all(end <= start < stop for end, (start, stop) in zip(ends, found.spans, strict=False))
    assert "".join(piece for piece, _ in found.pieces()) == text


def test_pieces_splits_a_part_of_the_text_at_its_marks() -> None:
    found = of_words("b", "a b c b", {"b": 1.0}, {"b": 1.0})

    assert [(piece, mark is not None) for piece, mark in found.pieces(2, 6)] == [("b", True), (" c ", False)]


# -- shares, tokens without a match, origins -----------------------------------------------------------------


def test_the_shares_of_the_kinds_of_tokens_sum_to_one() -> None:
    query = {"moon": 1.0, "orbit": 2.0, "lunar": 3.0, "space": 4.0}

    found = of_words("moon orbit", "lunar orbit", query, dict.fromkeys(query, 1.0))

    assert found.shares == {
        "literal": 0.2,
        "text expanded": 0.1,
        "query expanded": 0.3,
        "both expanded": 0.4,
    }


def test_query_tokens_without_a_match_are_listed_by_weight_and_joined_to_words() -> None:
    weights = {"ya": 1.0, "##ml": 2.0, "parse": 1.5, "config": 4.0}

    found = in_pieces("parse YAML", "A parser.", weights, {"config": 1.0})

    assert [(t.token, t.weight, t.in_query, t.pieces) for t in found.unmatched] == [
        ("yaml", 3.0, True, ("ya", "##ml")),
        ("parse", 1.5, True, ("parse",)),
    ]
    assert sum(found.shares.values()) == 1.0


@pytest.mark.parametrize("windows", ["truncate", "merge", "points"])
def test_an_expansion_is_traced_to_the_words_that_produced_it(
    client: Any, model: SparseTextEmbedding, windows: Any
) -> None:
    query, text = "why do stars explode", "A supernova is the explosion of a massive star."
    index = SpladeIndex(client=client, model=model, windows=windows)
    index.add([text])
    (hit,) = index.search(query)

    found = index.explain(query, hit, origins=True)

    origins = {
        c.token: (
            c.query_origin and query[slice(*c.query_origin)],
            c.text_origin and text[slice(*c.text_origin)],
        )
        for c in found.contributions
    }
    assert origins["explode"] == (None, "explosion")
    assert origins["star"] == ("stars", None)
    assert origins["exploded"] == ("explode", "explosion")
    assert origins["stellar"] == ("stars", "supernova")
    assert replace_origins(found) == index.explain(query, hit)


def replace_origins(explanation: Explanation) -> Explanation:
    parts = [replace(c, query_origin=None, text_origin=None) for c in explanation.contributions]
    return replace(explanation, contributions=tuple(parts))


def test_an_expansion_in_a_later_window_is_traced_to_that_window(client: Any) -> None:
    model = SparseTextEmbedding(max_length=16)
    text = "Rock and ice. " * 12 + "Then the star was destroyed in an explosion."
    index = SpladeIndex(client=client, model=model, windows="merge")
    index.add([text])
    (hit,) = index.search("explode")

    found = index.explain("explode", hit, origins=True)

    (explode,) = [c for c in found.contributions if c.token == "explode"]
    assert explode.text_origin is not None
    assert text[slice(*explode.text_origin)] == "explosion"


def test_no_word_is_named_where_the_stored_vector_is_that_of_another_text(
    client: Any, model: SparseTextEmbedding
) -> None:
    index = SpladeIndex(client=client, model=model)
    index.add(["Look at the star."], encoded_texts=["A huge explosion: the star exploded and burst."])
    (hit,) = index.search("explode")

    found = index.explain("explode", hit, origins=True)

    assert found.score == pytest.approx(hit.score, abs=1e-4)
    assert {c.text_origin for c in found.contributions if c.token.startswith("explo")} == {None}


def test_origins_of_an_encoder_that_cannot_find_them_are_an_error_that_names_it(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(["moon"])

    with pytest.raises(InputError, match="WordEncoder has no method token_origins"):
        index.explain("moon", index.search("moon")[0], origins=True)


# -- a hit of an index ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_vectors", [False, True])
def test_the_sum_is_the_score_of_the_hit(client: Any, model: SparseTextEmbedding, with_vectors: bool) -> None:
    index = SpladeIndex(client=client, model=model)
    index.add(
        ["The lander reached the lunar surface.", "A rocket was launched from the coast."], ids=["a", "b"]
    )

    hits = index.search("moon landing", k=2, with_vectors=with_vectors)

    assert hits
    for hit in hits:
        found = index.explain("moon landing", hit)
        assert found.score == pytest.approx(hit.score, abs=1e-4)
        assert sum(c.score for c in found.contributions) == pytest.approx(hit.score, abs=1e-4)


def test_pruning_of_document_and_query_is_part_of_the_sum(client: Any, model: SparseTextEmbedding) -> None:
    index = SpladeIndex(client=client, model=model, max_active_dims=8, query_max_active_dims=4)
    index.add(["The lander reached the lunar surface."])
    (hit,) = index.search("lunar landing")

    found = index.explain("lunar landing", hit)

    assert found.score == pytest.approx(hit.score, abs=1e-4)
    assert len(found.contributions) <= 4


def test_a_window_is_explained_by_its_own_vector(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=8), windows="points", window_overlap=0)
    index.add([("filler " * 8 + "moon moon moon ") + "rest " * 8], ids=["long"])
    (hit,) = index.search("moon")

    found = index.explain("moon", hit)

    assert (found.score, marked(found)) == (hit.score, ["moon"] * 3)


def test_a_document_stored_as_windows_is_explained_by_its_best_window(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=4), windows="points", window_overlap=0)
    text = "moon one two three moon moon four five"
    index.add([text], ids=["long"])
    (document,) = index.get(["long"])

    found = index.explain("moon", document)

    assert document.text == text
    assert (found.score, found.spans) == (2.0, ((19, 23), (24, 28)))


def test_words_beyond_the_first_window_are_marked_where_windows_are_merged(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=4), windows="merge", window_overlap=1)
    index.add(["one two three four five moon"])
    (hit,) = index.search("moon")

    assert marked(index.explain("moon", hit)) == ["moon"]


def test_words_that_the_model_did_not_read_are_not_marked(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(max_length=2))
    index.add(["moon rover moon"])
    (hit,) = index.search("moon")

    assert index.explain("moon", hit).spans == ((0, 4),)


def test_a_hit_of_a_hybrid_search_is_explained_by_its_sparse_score(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder(), dense=LetterEncoder())
    index.add(["moon rover"], ids=["a"])
    (hit,) = index.search("moon")

    assert index.explain("moon", hit).score == hit.branches["sparse"].score == 1.0


def test_explaining_a_deleted_document_is_an_error_that_names_it(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(["moon"], ids=["gone"])
    (hit,) = index.search("moon")
    index.delete(["gone"])

    with pytest.raises(InputError, match="'gone'"):
        index.explain("moon", hit)


def test_an_encoder_without_tokenizer_is_an_error_that_names_it() -> None:
    class Bare:
        fingerprint = {"model": "bare"}  # noqa: RUF012
        passage_embed = query_embed = staticmethod(lambda texts: iter(()))

    index = SpladeIndex(client=QdrantClient(":memory:"), model=Bare())

    with pytest.raises(InputError, match="Bare has no tokenizer"):
        index.explain("moon", Hit("a", "moon", {}))


def test_aexplain_returns_the_same_as_explain(client: Any) -> None:
    index = SpladeIndex(client=client, model=WordEncoder())
    index.add(["moon"])
    (hit,) = index.search("moon")

    assert asyncio.run(index.aexplain("moon", hit)) == index.explain("moon", hit)


# -- what is shown -------------------------------------------------------------------------------------------


def test_to_dict_returns_json_values() -> None:
    found = of_words("moon", "lunar moon", {"moon": 2.0, "orbit": 1.0}, {"moon": 1.5})

    assert json.loads(json.dumps(found.to_dict())) == {
        "query": "moon",
        "score": 3.0,
        "shares": {"literal": 1.0, "query expanded": 0.0, "text expanded": 0.0, "both expanded": 0.0},
        "contributions": [
            {
                "token": "moon",
                "query_weight": 2.0,
                "document_weight": 1.5,
                "score": 3.0,
                "in_query": True,
                "in_text": True,
                "pieces": ["moon"],
                "query_origin": None,
                "text_origin": None,
                "places": [[6, 10]],
                "control": None,
                "kind": "literal",
            }
        ],
        "unmatched": [{"token": "orbit", "weight": 1.0, "in_query": False, "pieces": ["orbit"]}],
        "controls": [],
        "spans": [[6, 10]],
    }


class TagsAndText(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.marked: list[str] = []
        self._within: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._within.pop() == tag

    def handle_data(self, data: str) -> None:
        if "mark" in self._within:
            self.marked.append(data)


def test_the_notebook_view_marks_words_and_escapes_everything_else() -> None:
    found = of_words("<b>", "<script>b</script> & b", {"b": 1.0}, {"b": 1.0})

    seen = TagsAndText(found._repr_html_())

    assert seen.marked == ["b", "b"]
    tables = {"table", "thead", "tbody", "tr", "th", "td"}
    assert seen.tags == {"div", "style", "p", "mark", "span", *tables}


def test_the_notebook_view_sums_the_tokens_that_it_leaves_out() -> None:
    weights = {f"w{n}": 1.0 for n in range(30)}

    assert "and 10 lighter tokens: 10.000" in of_words("q", "t", weights, weights)._repr_html_()


def in_a_terminal(
    explanation: Explanation, *, colours: bool = False, width: int = 80, ascii_only: bool = False
) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if ascii_only else "utf-8", errors="strict")
    console = Console(
        file=file,
        width=width,
        force_terminal=colours,
        color_system="standard" if colours else None,
        _environ={},
    )
    console.print(explanation)
    file.flush()
    return file.buffer.getvalue().decode()


def test_a_console_without_colours_shows_marked_words_in_brackets() -> None:
    weights = {"moon": 1.0, "lunar": 1.0}

    shown = in_a_terminal(of_words("moon", "a lunar moon", weights, weights))
    other = in_a_terminal(of_words("moon", "a lunar [moon]", weights, weights))

    assert "a [~lunar] [moon]" in shown
    assert "a {~lunar} [{moon}]" in other, "brackets of the text are not used as marks"
    assert "\x1b" not in shown + other


def test_a_terminal_shows_the_shares_of_the_score_and_what_was_not_matched() -> None:
    found = of_words("moon orbit", "moon", {"moon": 1.0, "orbit": 1.0, "luna": 2.0}, {"moon": 1.0})

    shown = in_a_terminal(found)

    assert "score: 100% literal" in shown
    assert "not matched: orbit, ~luna" in shown


def test_control_characters_of_a_text_are_made_visible() -> None:
    text = "moon \x1b]0;title\x07 \x9b31m \u202e <b>"
    weights = {"moon": 1.0}
    found = of_words("moon", text, weights, weights)

    shown, html = in_a_terminal(found, colours=True), found._repr_html_()

    assert r"\x1b]0;title\x07 \x9b31m \u202e <b>" in re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert r"\x1b]0;title\x07 \x9b31m \u202e &lt;b&gt;" in html
    assert not set("\x07\x1b\x9b\u202e") & set(html)


def test_a_console_of_60_columns_keeps_all_columns_of_the_token_table() -> None:
    weights = {"moon": 1.5, "lunar": 1.0}

    shown = in_a_terminal(of_words("moon", "a lunar moon", weights, weights), width=60)

    assert "query x text" in shown
    assert "query expanded" in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_the_terminal_view_colours_words_and_leaves_the_text_alone() -> None:
    found = of_words("moon", "a lunar moon", {"moon": 1.0, "lunar": 1.0}, {"moon": 1.0, "lunar": 1.0})

    shown = in_a_terminal(found, colours=True)

    assert re.sub(r"\x1b\[[\d;]*m", "", shown).startswith("a lunar moon\n")
    assert shown.startswith("a \x1b[4mlunar\x1b[0m \x1b[1;30;43mmoon\x1b[0m")


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_the_terminal_view_keeps_to_the_width_and_to_ascii(width: int) -> None:
    weights = {"moon": 1.5, "an_uncommonly_long_token_of_a_vocabulary": 1.0}
    found = of_words("moon", "moon " * 50, weights, weights)

    shown = in_a_terminal(found, width=width, ascii_only=True)

    assert max(map(len, shown.splitlines())) <= width
    assert "3.250" in shown


def test_the_terminal_view_of_a_score_of_0_says_so() -> None:
    assert "share no token" in in_a_terminal(of_words("a", "b", {"a": 1.0}, {"b": 1.0}))


def test_one_hit_in_place_of_several_is_refused() -> None:
    with SpladeIndex(model=WordEncoder()) as ix:
        ix.add(["a heron"])
        (hit,) = ix.search("heron", 1)
        with pytest.raises(InputError, match=r"one Hit, expected several hits. Pass \[hit\]"):
            ix.explain_all("heron", hit)  # type: ignore[arg-type]


def test_a_notebook_shows_a_hit_as_text() -> None:
    html = Hit("<i>", "<script>moon</script> \x1b", {"<b>": "\u202e"}, score=1.5)._repr_html_()

    assert "&lt;i&gt; (score 1.500)" in html
    assert "&lt;script&gt;moon&lt;/script&gt; \\x1b" in html
    assert "&lt;b&gt;" in html
    assert not {"\x1b", "\u202e"} & set(html)
