"""Text sources: every format read, every division complete, every fault named with its place."""

import gzip
import json
import random
import re
from unittest import mock

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from pd_jax.config import Source
from pd_jax.data.text import corpora, lines
from pd_jax.errors import SourceError

ROWS = [("good film", "0"), ("café crème 日本", "1"), ('quoted, "so"', "0")]

ZIPPED = gzip.compress(b"a\n" * 9999, mtime=0)
CUT_GZIP = ZIPPED[:-20]
"""Without a time stamp, so that every test process names its test alike."""


def write(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def read(source, shards=1):
    """Rows of all shards, as (text, label)."""
    found = [corpora.rows(piece) for pieces in corpora.split(source, shards) for piece in pieces]
    return [(row.text, row.label) for part in found for row in part]


def tsv(path):
    content = "text\tlabel\n" + "".join(f"{words}\t{label}\n" for words, label in ROWS)
    return write(path, content)


def csv(path):
    lines_of = ['"{}",{}\r\n'.format(words.replace('"', '""'), label) for words, label in ROWS]
    return write(path, "text,label\r\n" + "".join(lines_of))


def jsonl(path):
    return write(path, "".join(json.dumps({"text": w, "label": int(x)}) + "\n" for w, x in ROWS))


def parquet(path):
    table = pyarrow.table({"text": [w for w, _ in ROWS], "label": [int(x) for _, x in ROWS]})
    write_table(table, path, row_group_size=2)
    return str(path)


@pytest.mark.parametrize("make", [tsv, csv, jsonl, parquet])
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_every_format_gives_the_same_rows_in_any_number_of_shards(tmp_path, make, shards):
    path = make(tmp_path / f"a.{make.__name__}")
    assert sorted(read(Source(path=path, label="label"), shards)) == sorted(ROWS)


@pytest.mark.parametrize("make", [tsv, csv, jsonl])
def test_gzipped_files_are_read_as_they_are(tmp_path, make):
    plain = tmp_path / "a"
    make(plain)
    path = write(tmp_path / f"a.{make.__name__}.gz", gzip.compress(plain.read_bytes()))
    assert read(Source(path=path, label="label"), 3) == ROWS


def test_plain_text_gives_a_row_a_line_without_blank_ones_or_byte_order_mark(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf one \r\n\r\n  \ntwo\xc2\xa0\nthree")
    assert read(Source(path=path)) == [("one", None), ("two", None), ("three", None)]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write(tmp_path / "a.txt", "a")
    (tmp_path / "b.txt").symlink_to("nowhere")
    with pytest.raises(SourceError, match=r"b\.txt is a link to a file that does not exist; remo"):
        corpora.split(Source(path=f"{tmp_path}/*.txt"))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_files_are_cut_where_shards_end(sizes, shards):
    found = [corpora.SourceFile(f"{n}.txt", "text", False, size) for n, size in enumerate(sizes)]
    with mock.patch.object(corpora, "source_files", lambda source: found):
        if not sum(sizes):
            return
        divided = corpora.split(Source(path="x"), shards)
    bounds = [index * sum(sizes) // shards for index in range(shards + 1)]
    for shard, pieces in enumerate(divided):
        held = [(int(p.files[0].path[:-4]), at) for p in pieces for at in range(p.begin, p.end)]
        every = [(number, at) for number, size in enumerate(sizes) for at in range(size)]
        assert held == every[bounds[shard] : bounds[shard + 1]]


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_a_limit_takes_the_first_rows_of_the_whole_source(tmp_path, ending):
    for name in "ab":
        content = "".join(f"{name}{number}\n" for number in range(100)).encode()
        write(tmp_path / f"{name}.{ending}", gzip.compress(content) if "gz" in ending else content)
    source = Source(path=str(tmp_path / f"*.{ending}"), rows=130)
    expected = [f"a{number}" for number in range(100)] + [f"b{number}" for number in range(30)]
    assert [words for words, _ in read(source, 1)] == expected
    assert sorted(words for words, _ in read(source, 3)) == sorted(expected)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["", " ", "a", "bb", "ccc é", "dddd"]), max_size=40),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 12),
)
def test_a_file_cut_anywhere_has_the_documents_of_the_whole(
    tmp_path_factory, words, end, bom, shards
):
    content = end.join(["head", *words]).encode()
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    write(path, (b"\xef\xbb\xbf" if bom else b"") + content)
    source = Source(path=str(path))
    expected = [
        tuple(line.strip() for line in block.split("\n"))
        for block in split_blank("\n".join(line.strip() for line in ["head", *words]))
    ]
    pieces = [piece for shard in corpora.split(source, shards) for piece in shard]
    assert [d.sentences for piece in pieces for d in corpora.documents(piece)] == expected
    assert [row.text for piece in pieces for row in corpora.rows(piece)] == [
        line for document in expected for line in document
    ]


def split_blank(content: str) -> list[str]:
    return [block.strip("\n") for block in re.split(r"\n{2,}", content) if block.strip("\n")]


def test_a_large_file_without_blank_lines_becomes_many_documents_equal_for_all_shards(tmp_path):
    rng = random.Random(0)
    content = "\n".join("word " * rng.randint(1, 300) for _ in range(6_000))
    source = Source(path=write(tmp_path / "a.txt", content))
    whole = [document.sentences for document in corpora.documents(source)]
    assert len(whole) == -(-len(content) // lines.DOCUMENT_BYTES)
    assert sum(map(len, whole)) == 6_000
    for shards in (2, 5):
        pieces = [piece for shard in corpora.split(source, shards) for piece in shard]
        assert [d.sentences for piece in pieces for d in corpora.documents(piece)] == whole


@pytest.mark.parametrize("unit", ["word ", "日本語", "é"])
def test_one_endless_line_is_read_in_bounded_parts_and_loses_nothing(tmp_path, unit):
    content = unit * (5_000_000 // len(unit.encode()))
    path = write(tmp_path / "a.txt", content + "\n\nlast\n")
    found = list(corpora.documents(Source(path=path)))
    assert found[-1].sentences == ("last",)
    sentences = [sentence for document in found[:-1] for sentence in document.sentences]
    assert max(len(s.encode()) for s in sentences) <= 2 * lines.SENTENCE_BYTES
    assert max(sum(map(len, d.sentences)) for d in found) <= 3 * lines.DOCUMENT_BYTES
    joined = (" " if unit == "word " else "").join(sentences)
    assert joined == content.strip()


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_line_that_begins_with_many_spaces_is_not_blank(tmp_path, mark, shards):
    inner = [
        "two",
        " " * 40_000 + "a" * 30_000,
        " " * 70_000 + "three",
        "\t" * 200_000 + "é",
        " " * 140_000,
        "four" + " " * 140_000 + "five",
        " " * 140_000,
    ]
    path = write(tmp_path / "a.txt", mark + "\n".join([" " * 70_000 + "one", *inner]))
    pieces = [piece for shard in corpora.split(Source(path=path), shards) for piece in shard]
    found = [document.sentences for piece in pieces for document in corpora.documents(piece)]
    assert found == [("one", "two", "a" * 30_000, "three", "é"), ("four", "five")]


@pytest.mark.parametrize("rest", [b"", b"\n", b"\ntwo\n"])
def test_bytes_that_only_continue_characters_are_refused(tmp_path, rest):
    path = write(tmp_path / "a.txt", b"one\n" + b"\xaa" * 70_000 + rest)
    with pytest.raises(SourceError, match=r"a\.txt:2 is not UTF-8 \(byte 0xaa at position 1\)"):
        list(corpora.documents(Source(path=path)))


def test_rows_of_a_table_are_documents_cut_into_sentences(tmp_path):
    path = write(tmp_path / "a.tsv", "text\nIt is 3.5 m. Is it? Yes!  Good\n今日。明日\n\n")
    found = [document.sentences for document in corpora.documents(Source(path=path))]
    assert found == [("It is 3.5 m.", "Is it?", "Yes!", "Good"), ("今日。", "明日")]


def test_several_sources_share_the_shards(tmp_path):
    sources = (
        Source(path=write(tmp_path / "a.txt", "a\n" * 500)),
        Source(path=tsv(tmp_path / "b.tsv")),
        Source(path=write(tmp_path / "c.csv", "text\n" + "c\n" * 500)),
    )
    shards = corpora.split(sources, 4)
    found = [[row.text for piece in shard for row in corpora.rows(piece)] for shard in shards]
    assert sorted(sum(found, [])) == sorted(["a"] * 500 + [w for w, _ in ROWS] + ["c"] * 500)
    assert all(200 < len(part) < 330 for part in found)


def test_tsv_places_are_counted_from_the_top_in_every_shard(tmp_path):
    content = "text\n" + "".join(f"row on line {number}\n" for number in range(2, 400))
    source = Source(path=write(tmp_path / "a.tsv", content))
    for shard in corpora.split(source, 7):
        for piece in shard:
            for row in corpora.rows(piece):
                assert row.where == f"{tmp_path}/a.tsv:{row.text.split()[-1]}"


@pytest.mark.parametrize(
    ("name", "content"), [("a.tsv", "0\ta\n1\tb, c\n"), ("a.csv", '0,a\n1,"b, c"\n')]
)
def test_columns_may_be_named_where_a_file_has_no_header(tmp_path, name, content):
    source = Source(path=write(tmp_path / name, content), columns=("label", "text"), label="label")
    assert [(row.text, row.label) for row in corpora.rows(source)] == [("a", "0"), ("b, c", "1")]
    parts = [
        row.text for shard in corpora.split(source, 2) for p in shard for row in corpora.rows(p)
    ]
    assert sorted(parts) == ["a", "b, c"]


def test_broken_rows_are_skipped_where_the_source_says_so_and_counted(tmp_path, capsys):
    path = write(tmp_path / "a.tsv", "text\tlabel\na\t0\nb\n\nc\td\t1\ne\t1\n")
    source = Source(path=path, label="label", broken_rows="skip")
    assert [row.text for row in corpora.rows(source)] == ["a", "e"]
    told = capsys.readouterr().err
    assert told.startswith(f"warning: 2 rows were skipped, the first because {path}:3 has too few")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_rows_without_text_are_skipped_where_the_source_says_so(tmp_path, capsys, ending):
    rows = [{"text": "a"}, {"text": None}, {"text": "b"}]
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(SourceError, match="has null in column 'text'.*broken_rows='skip'"):
        list(corpora.rows(Source(path=str(path))))
    found = corpora.rows(Source(path=str(path), broken_rows="skip"))
    assert [row.text for row in found] == ["a", "b"]
    assert "warning: 1 row was skipped, the first because" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.tsv", "text\tlabel\na\t0\nb\n", {}, r"a\.tsv:3 has too few .* 1 .* 2 \(text, label\)"),
        ("a.tsv", "text\tlabel\na\tb\t0\n", {}, r"a\.tsv:2 has too many columns: 3 .* stray tab"),
        ("a.csv", 'text,label\n"a\nb",0\nc\n', {}, r"a\.csv:4 has too few columns"),
        ("a.csv", 'text,label\na,0\n"b,0\nc,0\n', {}, r"a\.csv:3 begins a row that is not CSV"),
        ("a.csv", "text,label\ra,0\rb,1\r", {}, r"a\.csv:1 .* carriage return .* line endings"),
        ("a.csv", 'text\r"a"\r', {}, r"a\.csv:1 .* carriage return .* line endings.* with tr"),
        ("a.csv", "text,label\r\na,0\r\nb\rc,1\r\n", {}, r"a\.csv:3 .* or quote a cell that has"),
        ("a.tsv", "sentence\tlabel\na\t0\n", {}, r"a\.tsv has no column 'text'.* 'sentence'"),
        ("a.csv", "text\na\n", {"label": "label"}, r"a\.csv has no column 'label'; .* 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', {}, r"a\.jsonl:2 has no column 'text'.*'txt'"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", '["a"]\n', {}, r"a\.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"text": null}\n', {}, r"a\.jsonl:1 has null in column 'text'"),
        ("a.jsonl", '{"text": "a\\ud83d\\ude00"}\n{"text": "a\\ud800 b"}\n', {},
         r"a\.jsonl:2 has \\ud800 in column 'text', which is half a character; write"),
        ("a.txt", b"good\nbad \xff\n", {}, r"a\.txt:2 .* UTF-8 \(byte 0xff at position 5\).*iconv"),
        ("a.tsv", "text\nö\n".encode("latin-1"), {}, r"a\.tsv:2 is not UTF-8"),
        ("b.txt", "text\n".encode("utf-16"), {}, r"b\.txt:1 is not UTF-8.*iconv -f UTF-16"),
        ("a.csv", "text\nö\n".encode("latin-1"), {}, r"a\.csv:2 is not UTF-8"),
        ("a.csv", 'text\n"ö" b\n'.encode("latin-1"), {}, r"a\.csv:2 is not UTF-8.*-f LATIN1"),
        ("a.csv", "text,label\r\na,0\r\n".encode("utf-16"), {}, r"a\.csv:1 is .*-f UTF-16"),
        ("a.txt", "a\n", {"label": "label"}, r"a\.txt is plain text, which has no column 'label'"),
        ("a.jsonl", "{}\n", {"columns": ("text",)}, r"a\.jsonl: columns .* this is jsonl; leave"),
        ("a.tsv", "a\tb\nc\n", {"columns": ("x", "text")}, r"a\.tsv:2 .* 1 instead of 2 \(x, te"),
        ("a.doc", "a\n", {}, r"a\.doc: the ending '\.doc' is not one of \.txt, \.tsv"),
        ("a.txt", "one\rtwo\rthree\r", {}, r"a\.txt:1 .* carriage return .* line endings.* with"),
        ("a.txt", ZIPPED, {}, r"a\.txt is compressed by gzip; add \.gz to its name"),
        ("a.txt.gz", CUT_GZIP, {}, r"a\.txt\.gz is a damaged gzip file"),
        ("a.txt.gz", "no gzip", {}, r"a\.txt\.gz is a damaged gzip file"),
        ("a.parquet", "no parquet", {}, r"a\.parquet is not a Parquet file"),
        ("a.parquet.gz", "any", {}, r"a\.parquet\.gz: Parquet is compressed internally.*gunzip"),
        ("a.gz", "any", {"format": "parquet"}, r"a\.gz: Parquet is compressed internally and must"),
        ("a.tsv", "\n", {"text": "x"}, r"a\.tsv has no column 'x'"),
    ],
)  # fmt: skip
def test_bad_input_is_named_with_its_place(tmp_path, name, content, options, message):
    source = Source(path=write(tmp_path / name, content), **options)
    with pytest.raises(SourceError, match=message):
        read(source)


def test_a_corpus_whose_lines_end_in_carriage_returns_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "one\rtwo\r" * 9)
    with pytest.raises(SourceError, match=r"a\.txt:1 has a carriage return inside a line"):
        list(corpora.documents(Source(path=path)))


def test_a_bad_byte_in_a_later_shard_is_named_by_its_true_line(tmp_path):
    path = write(tmp_path / "a.txt", b"good line\n" * 1000 + b"\n\xff\n" + b"good line\n" * 10)
    last = corpora.split(Source(path=path), 3)[-1]
    for read_piece in (corpora.rows, corpora.documents):
        with pytest.raises(SourceError, match=r"a\.txt:1002 is not UTF-8"):
            list(read_piece(last[0]))


def test_what_is_not_there_is_said_so(tmp_path):
    for path, message in (
        ("no.txt", r"no\.txt does not exist"),
        ("*.txt", r"\*\.txt matches no file"),
        ("", "is a folder; name the files in it"),
        ("**/*.txt", r"\*\*/\*\.txt has \*\*, which is not supported; name each level with \*"),
    ):
        with pytest.raises(SourceError, match=message):
            corpora.split(Source(path=f"{tmp_path}/{path}"))
    with pytest.raises(SourceError, match=r"a\.txt: there is nothing to read"):
        corpora.split(Source(path=write(tmp_path / "a.txt", "")))


def test_a_row_of_unreasonable_length_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "ROW_BYTES", 1 << 20)
    path = write(tmp_path / "a.txt", "short\n" + "x" * ((1 << 20) + 1) + "\n")
    with pytest.raises(SourceError, match=r"a\.txt:2 is longer than 1 MiB"):
        read(Source(path=path))


def test_digest_is_of_the_content(tmp_path):
    one, two, other = (write(tmp_path / name, name[0]) for name in ("a.txt", "a2.txt", "b.txt"))
    digests = [
        corpora.digest(corpora.source_files(Source(path=path))[0]) for path in (one, two, other)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_sample_is_even_ordered_and_decided_by_the_seed():
    values = corpora.sampled(iter(range(10_000)), limit=1_000, seed=0)
    assert len(values) == 1_000 and values == sorted(set(values))
    # The mean of a fair sample of 1,000 has a standard deviation of about 87.
    assert abs(sum(values) / 1_000 - 4_999.5) < 400
    assert corpora.sampled(iter(range(10_000)), limit=1_000, seed=0) == values
    assert corpora.sampled(iter(range(10_000)), limit=1_000, seed=1) != values
    assert corpora.sampled("abc", limit=5, seed=0) == ["a", "b", "c"]


def test_a_label_of_any_depth_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = "[" * 500 + "]" * 500
    rows = ('{"text": "a", "label": ["x", "y"]}', f'{{"text": "b", "label": [{deep}]}}')
    path.write_text("\n".join(rows))
    source = Source(path=str(path), label="label")
    assert [row.label for row in corpora.rows(source)] == ["x|y", "list"]


DOUBLED = '"a ""good"" film"'


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (["plain", 'so "good" a film', DOUBLED, DOUBLED], 3),
        (['"one"'] * 120, 100),
        (['"one"'] * 99 + ["two"] * 9, None),
        (['"" a "', '"', '""', '"a" or "b"'], None),
    ],
)
def test_a_tsv_file_that_was_written_as_csv_is_told_once(tmp_path, capsys, cells, line):
    path = write(tmp_path / "a.tsv", "".join(f"{cell}\t1\n" for cell in cells))
    source = Source(path=path, label="label", columns=("text", "label"))
    assert [row[0] for row in read(source)] == cells
    assert [row[0] for row in read(source)] == cells
    told = capsys.readouterr().err
    expected = f"warning: {path}:{line} has a cell in quotes" if line else ""
    assert told.startswith(expected) and told.count("\n") == bool(line)
    assert not line or told.endswith(
        "as .csv, with commas and these quotes, or remove the quotes\n"
    )


def test_whole_floats_are_labels_as_integers_are(tmp_path):
    import pyarrow
    from pyarrow import parquet

    given = [1.0, 0.0, -0.0, 2.5, None, float("nan")]
    table = pyarrow.table({"text": list("abcdef"), "label": given})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read(Source(path=str(tmp_path / "a.parquet"), label="label"))
    assert [label for _, label in found] == ["1", "0", "0", "2.5", None, "nan"]
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": [1.0, "x"]}\n')
    assert read(Source(path=path, label="label")) == [("a", "1|x")]
