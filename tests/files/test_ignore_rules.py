"""Patterns of .gitignore files, compared with git itself."""

import subprocess
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from splade_retriever.files.ignore_rules import IgnoreRules

PARTS = st.sampled_from(["a", "b", "ab", "a.txt", "b.log"])
PATTERNS = st.lists(
    st.tuples(
        st.sampled_from(["", "!", "/"]),
        st.lists(st.sampled_from(["a", "b*", "*.txt", "**", "?", "[ab]", "[!a]*"]), min_size=1, max_size=3),
        st.sampled_from(["", "/"]),
    ).map(lambda made: made[0] + "/".join(made[1]) + made[2]),
    max_size=4,
)


@settings(max_examples=60)
@given(lines=PATTERNS, parts=st.lists(PARTS, min_size=1, max_size=3))
def test_a_path_is_ignored_if_git_ignores_it(repository: Path, lines: list[str], parts: list[str]) -> None:
    rules = IgnoreRules().with_lines(lines, Path("."))
    (repository / ".gitignore").write_text("\n".join(lines))

    # A file in an ignored folder is ignored too: its folder is not walked.
    folders = [Path(*parts[:end]) for end in range(1, len(parts))]
    ignored = any(rules.match(folder, is_folder=True) for folder in folders)
    ignored = ignored or rules.match(Path(*parts), is_folder=False) is not None

    answer = subprocess.run(
        ["git", "check-ignore", "-q", "--no-index", "/".join(parts)], cwd=repository, check=False
    )
    assert ignored == (answer.returncode == 0)


def test_comments_blank_lines_and_escapes(tmp_path: Path) -> None:
    rules = IgnoreRules().with_lines(["# a", "", r"\#b", r"\!c", "d\\*", "e "], tmp_path)

    def ignored(name: str) -> bool:
        return rules.match(tmp_path / name, is_folder=False) is not None

    assert [name for name in ("a", "#b", "!c", "d*", "dx", "e") if ignored(name)] == ["#b", "!c", "d*", "e"]


def test_matching_a_hostile_pattern_is_fast(tmp_path: Path) -> None:
    rules = IgnoreRules().with_lines(["*a" * 40 + "b", "/".join(["**"] * 60 + ["x"])], tmp_path)
    started = time.perf_counter()

    assert rules.match(tmp_path / ("a" * 200), is_folder=False) is None
    assert rules.match(Path(tmp_path, *["a"] * 200), is_folder=False) is None
    assert time.perf_counter() - started < 8
