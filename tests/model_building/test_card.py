"""The model card: written from records, the same text in the docs and in the package."""

from pathlib import Path

from model_building import card

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "splade_retriever" / "bundled"


def test_the_lab_notes_are_what_the_records_say() -> None:
    text = card.lab_notes(ROOT / "model_building" / "record", BUNDLED)
    assert (ROOT / "model_building" / "README.md").read_text("utf-8") == text


def test_the_card_of_the_bundled_model_is_what_its_records_say() -> None:
    text = card.card(ROOT / "model_building" / "record", BUNDLED)
    assert (BUNDLED / "MODEL_CARD.md").read_text("utf-8") == text
    assert (ROOT / "docs" / "model.md").read_text("utf-8") == text
