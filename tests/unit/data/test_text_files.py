"""The files that a source names: paths, globs, and names that only look like globs."""

import pathlib

from pd_jax.config import Source
from pd_jax.data.text import corpora


def write(path: pathlib.Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def texts(path: str | tuple[str, ...]) -> list[str]:
    return [row.text for row in corpora.rows(Source(path=path))]


def test_globs_and_lists_are_read_in_order_of_name(tmp_path: pathlib.Path) -> None:
    for name in "cab":
        write(tmp_path / f"{name}.txt", name)
    assert texts(str(tmp_path / "?.txt")) == ["a", "b", "c"]
    assert texts((str(tmp_path / "c.txt"), str(tmp_path / "a*"))) == ["c", "a"]


def test_brackets_of_folders_that_exist_are_no_pattern(tmp_path: pathlib.Path) -> None:
    for folder in ("news [new]", "news n"):
        (tmp_path / folder / "de").mkdir(parents=True)
        for name in "ab":
            write(tmp_path / folder / "de" / f"{name}.txt", f"{name} of {folder}")
    for pattern in ("news [new]/de/*.txt", "news [new]/*/[ab].txt"):
        assert texts(str(tmp_path / pattern)) == ["a of news [new]", "b of news [new]"]
    assert texts(str(tmp_path / "news ?/d*/b*")) == ["b of news n"]
