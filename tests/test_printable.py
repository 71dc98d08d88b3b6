"""Control characters of foreign text, made visible."""

import json

import pytest

from splade_retriever.printable import printable, printable_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 漢 🚀\ttab\nline", "plain ü 漢 🚀\ttab\nline"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b2J \x7f \r", r"\x9b2J \x7f \r"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_control_characters_become_escapes_and_other_text_stays(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_a_json_document_keeps_its_value() -> None:
    value = {"text\x7f": "\x1b \x9b \u202e \u2028 \U000e0041 ü"}

    document = printable_json(json.dumps(value, ensure_ascii=False))

    assert json.loads(document) == value
    assert all(character.isprintable() for character in document)
