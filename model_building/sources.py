"""The training data: each source with its licence, the number of pairs used, and how often it is drawn.

Sources of questions are used completely and drawn more often; headings and word definitions are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SOURCES", "UNLABELLED", "Source"]


@dataclass(frozen=True)
class Source:
    """A folder with `pairs.jsonl.gz`.

    Attributes:
        name: The folder.
        what: Query and text of a pair.
        licence: Licence of the texts, with the attribution that it requires.
        rows: Maximum number of pairs used.
        draw: How often the source is drawn, relative to its share of all rows.
    """

    name: str
    what: str
    licence: str
    rows: int
    draw: float = 1.0


SOURCES = (
    Source(
        "squad-part",
        "crowd question, Wikipedia paragraph or sentence (SQuAD 1.1)",
        "CC BY-SA 4.0; Rajpurkar et al. 2016, Wikipedia authors",
        24_000,
        2.0,
    ),
    Source(
        "nq-part",
        "search question, Wikipedia paragraph (Natural Questions: QED and ClapNQ subsets)",
        "CC BY-SA 3.0 and Apache-2.0; Google Research, IBM, Wikipedia authors",
        5_000,
        2.0,
    ),
    Source(
        "qamr",
        "crowd question, sentence (QAMR)",
        "MIT (J. Michael 2017); sentences CC BY-SA (Wikipedia) and CC BY 2.5 (Wikinews)",
        5_000,
    ),
    Source(
        "medquad",
        "health question, answer (MedQuAD)",
        "CC BY 4.0; Ben Abacha and Demner-Fushman 2019, US NIH",
        12_000,
        1.5,
    ),
    Source("rqe", "short clinical question, long question (RQE)", "CC BY 4.0; Ben Abacha 2016", 3_300),
    Source(
        "science-qa",
        "research question or summary, abstract (PubMedQA, SciTLDR, COVID-QA)",
        "MIT and Apache-2.0",
        9_000,
        2.0,
    ),
    Source(
        "selqa", "crowd question, Wikipedia sentences (SelQA)", "Apache-2.0; text CC BY-SA (Wikipedia)", 2_200
    ),
    Source(
        "fm2", "claim, Wikipedia evidence (FoolMeTwice)", "Apache-2.0; evidence CC BY-SA (Wikipedia)", 2_400
    ),
    Source(
        "stackexchange",
        "title, post (Stack Exchange: ai, beer, coffee)",
        "CC BY-SA 3.0; authors on stackexchange.com",
        3_300,
    ),
    Source(
        "simple-en",
        "Simple English sentence, encyclopaedic passage (Wikipedia)",
        "CC BY-SA 3.0; Wikipedia authors",
        5_000,
    ),
    Source(
        "openstax",
        "heading, textbook passage; term, definition (OpenStax)",
        "CC BY 4.0; OpenStax, Rice University. Access for free at openstax.org",
        12_000,
    ),
    Source(
        "oewn",
        "synonyms, definition (Open English WordNet)",
        "CC BY 4.0; Princeton WordNet, Open English WordNet team",
        3_000,
        0.3,
    ),
    Source("arxiv", "title, abstract (arXiv)", "CC0 1.0 metadata", 24_000),
    Source(
        "docs",
        "title, heading or question, section of documentation, law, textbooks and government pages",
        "per source, see model_data.md",
        24_000,
    ),
)

_WIKIPEDIA = "CC BY-SA 3.0 and 4.0; Wikipedia authors"
UNLABELLED = (
    Source("docs", "passages", "per source, see model_data.md", 40_000),
    Source("enwiki", "passages of the English Wikipedia", _WIKIPEDIA, 50_000),
    Source("simplewiki", "passages of the Simple English Wikipedia", _WIKIPEDIA, 60_000),
    Source("wiki-intros", "first paragraphs of Wikipedia articles", _WIKIPEDIA, 21_357),
    Source(
        "queries",
        "questions (query well-formedness, Natural Questions, WebQuestions)",
        "CC BY-SA 4.0, CC BY-SA 3.0, CC BY 4.0",
        80_000,
    ),
)
"""Texts and questions without labels, in the last round only: `rows` is the maximum."""
