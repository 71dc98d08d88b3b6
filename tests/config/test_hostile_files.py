"""Configuration files from somebody else: any content is a configuration or a SpladeError."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_retriever import RetrieverConfig
from splade_retriever.errors import SpladeError

NAMES = [*RetrieverConfig.model_fields, "retrievers", "defaults", "class", "args", "method", "weights"]
WORDS = ["./notes", "http://host", "hybrid", "${HOME}", "${", "$$", "rrf", "http://[::1", "~", "\x1b[2J"]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
quick = settings(max_examples=60)


def read(path: Path) -> None:
    with contextlib.suppress(SpladeError):
        for config in RetrieverConfig.read_all(path).values():
            assert RetrieverConfig.from_dict(config.to_dict()) == config
            repr(config)


@given(content=st.dictionaries(st.sampled_from(NAMES), values, max_size=5) | values)
@quick
def test_yaml_and_json_files_with_any_values_are_read_or_raise_a_splade_error(
    tmp_path: Path, content: Any
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    read(tmp_path / "c.yaml")
    (tmp_path / "c.json").write_text(json.dumps(content, default=str), encoding="utf-8")
    read(tmp_path / "c.json")
    if isinstance(content, dict):
        with contextlib.suppress(SpladeError):
            RetrieverConfig.from_dict(content)


@given(
    content=st.binary(max_size=200)
    | st.lists(
        st.sampled_from(["location", "index", "=", ":", " ", "\n", "[", "]", "{", "}", '"', "'", ".", "- "])
        | st.sampled_from(["&a", "*a", "!!python/object:os.system", "<<", "1e999", "2020-13-01", "|", "#"]),
        max_size=30,
    ).map(lambda parts: "".join(parts).encode())
)
@quick
def test_files_with_any_bytes_are_read_or_raise_a_splade_error(tmp_path: Path, content: bytes) -> None:
    for extension in (".yaml", ".json", ".toml"):
        path = tmp_path / f"c{extension}"
        path.write_bytes(content)
        read(path)


@pytest.mark.parametrize(
    ("extension", "content"),
    [
        (".json", "[" * 100_000),
        (".json", '{"location":' * 100_000),
        (".yaml", "[" * 50_000),
        (".yaml", "a: &a [x]\nb: [*a, *a]\n"),
        (".yaml", "location: x\nindex: {? [a]: 1}\n"),
        (".yaml", "location: 2020-13-45\n"),
        (".yaml", "location: !!int abc\n"),
        (".toml", "a" + ".a" * 20_000 + " = 1"),
        (".toml", "location = " + "[" * 50_000),
        (".json", '{"k": ' + "9" * 5_000 + "}"),
        (".yaml", "k: " + "9" * 5_000),
        (".toml", "k = " + "9" * 5_000),
    ],
)
def test_hostile_files_raise_a_splade_error(tmp_path: Path, extension: str, content: str) -> None:
    path = tmp_path / f"c{extension}"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SpladeError):
        RetrieverConfig.read(path)
