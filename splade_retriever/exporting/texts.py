"""Texts that an export is compared on: short and long, several languages, digits, marks and cases."""

from __future__ import annotations

from typing import Final

__all__ = ["TEXTS"]

_PARAGRAPH: Final = (
    "A lander touched down near the south pole of the Moon on 23 August 2023 and released a rover of six "
    "wheels. The instruments measured the temperature of the soil at several depths, and a spectrometer "
    "found sulphur, aluminium, calcium and iron. After two weeks the Sun set, and both "
    "machines were put to sleep. "
)

TEXTS: Final = (
    "moon",
    "What's the weather in ny now?",
    "Currently New York is rainy.",
    "How do I reset the password of my account?",
    'To reset it, open Settings > Account > Security, and click "Forgot password".',
    "def add(a: int, b: int) -> int:\n    return a + b  # e.g. add(2, 3) == 5",
    "The café on the Champs-Élysées serves crème brûlée for 9,50 €.",
    "Die Straßenbahn fährt um 7:45 Uhr über die Brücke.",
    "¿Dónde está la biblioteca más cercana?",
    "Пример русского текста.",
    "月の南極に探査機が着陸した。",
    "القمر يدور حول الأرض",
    "COVID-19 mRNA vaccines (BNT162b2) showed 95% efficacy; p < 0.001.",
    _PARAGRAPH,
    _PARAGRAPH * 12,
)
"""The last one is longer than the 512 tokens that most models read."""
