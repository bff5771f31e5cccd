"""Sources that name a file twice, headers that name a column twice, and rows that are broken."""

import json
import os

import pyarrow
import pytest
from pyarrow import parquet

from pd_jax.config import Source
from pd_jax.data.text import corpora, lines
from pd_jax.errors import BrokenRowError, SourceError


def write(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path, **options) -> list[str]:
    source = Source(path=path, **options)
    return [
        row.text for part in corpora.split(source) for piece in part for row in corpora.rows(piece)
    ]


# ---- files -------------------------------------------------------------------------------------


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    path, link = write(tmp_path / "a.txt", "a\n"), tmp_path / "b.txt"
    link.symlink_to(path)
    (tmp_path / "c.txt").write_text("a\n")  # a copy is another file
    for named, message in (
        ((path, path), r"a\.txt is named twice, and would be read twice; name it once"),
        ((path, f"{tmp_path}/[ac].txt"), r"a\.txt is named twice"),
        (f"{tmp_path}/?.txt", r"b\.txt is the same file as .*a\.txt, and would be read twice"),
    ):
        with pytest.raises(SourceError, match=message):
            read(named)
    assert read(f"{tmp_path}/[bc].txt") == ["a", "a"]


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    with open(path, "w") as stream:
        stream.write("a\n")
    with pytest.raises(SourceError, match=r"caf\\udce9\.txt' has a name that is not UTF-8; rename"):
        corpora.source_files(Source(path=f"{tmp_path}/*.txt"))


# ---- columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["tsv", "csv", "parquet"])
def test_a_wanted_column_that_occurs_twice_is_refused(tmp_path, ending):
    names, path = ["text", "other", "text"], tmp_path / f"a.{ending}"
    if ending == "parquet":
        table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=names)
        parquet.write_table(table, path)
    else:
        between = "," if ending == "csv" else "\t"
        path.write_text("".join(between.join(cells) + "\n" for cells in (names, "abc")))
    with pytest.raises(SourceError, match=rf"a\.{ending} has 2 columns 'text'; give each a name"):
        read(str(path))
    assert len(read(str(path), text="other")) == 1


def test_a_parquet_column_is_named_as_it_is_in_the_file(tmp_path):
    parquet.write_table(pyarrow.table({" text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"has no column 'text'; its columns are ' text'"):
        read(str(tmp_path / "a.parquet"))
    assert read(str(tmp_path / "a.parquet"), text=" text") == ["a"]


# ---- rows --------------------------------------------------------------------------------------

LONG = 1 << 12
BROKEN = {
    "no JSON": ("a.jsonl", b'{"text": "b"', "is not JSON"),
    "no object": ("a.jsonl", b'["b"]', "is not a JSON object"),
    "no UTF-8 in JSONL": ("a.jsonl", b'{"text": "\xff"}', "is not UTF-8"),
    "no UTF-8 in TSV": ("a.tsv", b"\xffb", "is not UTF-8"),
    "no UTF-8 in CSV": ("a.csv", b'"b\nb\xff"', "is not UTF-8"),
    "no UTF-8 in text": ("a.txt", b"b\xff", "is not UTF-8"),
    "too long in JSONL": ("a.jsonl", json.dumps({"text": "b" * 3 * LONG}).encode(), "is longer"),
    "too long in text": ("a.txt", b"b" * 3 * LONG, "is longer"),
    "too long by one": ("a.txt", b"b" * (LONG + 1), "is longer"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lines_are_refused_or_skipped(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(lines, "ROW_BYTES", LONG)
    file, broken, message = BROKEN[name]
    row = '{"text": "%s"}\n' if file.endswith("jsonl") else "%s\n"
    head = b"text\n" if file.endswith(("tsv", "csv")) else b""
    rows = [(row % text).encode() for text in ("a", "c", "d")]
    path = write(
        tmp_path / file, head + rows[0] + broken + b"\n" + rows[1] + broken + b"\n" + rows[2]
    )
    with pytest.raises(BrokenRowError, match=rf"{file}:\d {message}.*broken_rows='skip'"):
        read(path)
    assert read(path, broken_rows="skip") == ["a", "c", "d"]
    told = capsys.readouterr().err
    assert told.startswith(f"warning: 2 rows were skipped, the first because {path}:")
    assert message in told


def test_a_long_row_is_told_a_remedy_for_any_format(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "ROW_BYTES", 1 << 20)
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "b" * (1 << 20)}) + "\n")
    with pytest.raises(BrokenRowError, match=r"a\.jsonl:1 is longer than 1 MiB; break its text in"):
        read(path)


def test_of_a_document_only_the_broken_line_is_skipped(tmp_path, capsys):
    path = write(tmp_path / "a.txt", b"a\nb \xff\nc\n\nd\n")
    found = corpora.documents(Source(path=path, broken_rows="skip"))
    assert [document.sentences for document in found] == [("a", "c"), ("d",)]
    told = capsys.readouterr().err
    assert told.startswith(f"warning: 1 row was skipped, the first because {path}:2 is not UTF-8")


def test_a_long_broken_line_of_a_document_is_skipped_whole_and_counted_once(tmp_path, capsys):
    long = b"b " * lines.SENTENCE_BYTES
    broken = long + b"\xff " + long + b"\xff " + long
    path = write(tmp_path / "a.txt", b"a\n" + broken + b"\nc\n\n\xff\n\xff\n\nd\n")
    found = corpora.documents(Source(path=path, broken_rows="skip"))
    # Nothing is left of the second document, which is no document then.
    assert [document.sentences for document in found] == [("a", "c"), ("d",)]
    told = capsys.readouterr().err
    assert told.startswith(f"warning: 3 rows were skipped, the first because {path}:2 is not UTF-8")


@pytest.mark.parametrize("ending", ["tsv", "csv"])
def test_a_header_that_is_not_utf8_is_no_row_to_skip(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", b"te\xffxt\na\n")
    with pytest.raises(
        SourceError, match=rf"a\.{ending}:1 is not UTF-8 .*iconv -f LATIN1 -t UTF-8$"
    ):
        read(path, broken_rows="skip")


def test_a_row_of_csv_whose_end_is_not_known_is_not_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "ROW_BYTES", LONG)
    path = write(tmp_path / "a.csv", 'text\na\n"' + "b" * 2 * LONG + '"\n')
    with pytest.raises(
        SourceError, match=r"a\.csv:3 is longer than .*; break its text into se[a-z ]*$"
    ):
        read(path, broken_rows="skip")
