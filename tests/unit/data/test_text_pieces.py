"""Pieces of text sources: files of several formats as one sequence, and no reading in vain."""

import collections
import json

import pyarrow
import pytest
from pyarrow import parquet

from pd_jax.config import Source
from pd_jax.data.text import corpora, lines, parquet_rows
from pd_jax.errors import SourceError


def write(path, content) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def jsonl(path, texts) -> str:
    return write(path, "".join(json.dumps({"text": words}) + "\n" for words in texts))


# ---- several formats ---------------------------------------------------------------------------


PLAIN = "One.\nTwo.\n\nThree.\n"
IN_TABLE = ["It is. Is it?", " ", "Good"]
PLAIN_DOCUMENTS = [("One.", "Two."), ("Three.",)]
TABLE_DOCUMENTS = [("It is.", "Is it?"), ("Good",)]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_each_file_of_a_source_is_read_in_its_own_format(tmp_path, order):
    paths = {"a": write(tmp_path / "a.txt", PLAIN), "b": jsonl(tmp_path / "b.jsonl", IN_TABLE)}
    found = {"a": PLAIN_DOCUMENTS, "b": TABLE_DOCUMENTS}
    source = Source(path=tuple(paths[name] for name in order))
    expected = [document for name in order for document in found[name]]
    assert [document.sentences for document in corpora.documents(source)] == expected
    assert list(corpora.sentences(source)) == [part for document in expected for part in document]


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("order", ["ab", "ba", "abc"])
def test_a_limit_counts_documents_and_rows_over_files_of_all_formats(tmp_path, order, shards):
    size = {"a": 90, "b": 150, "c": 70}
    paths = {
        name: write(tmp_path / f"{name}.txt", "\n\n".join(f"{name}{n}" for n in range(size[name])))
        for name in "ac"
    }
    paths["b"] = jsonl(tmp_path / "b.jsonl", [f"b{n}" for n in range(size["b"])])
    everything = [f"{name}{n}" for name in order for n in range(size[name])]
    for limit in (1, 89, 91, 150, 200, 1_000):
        source = Source(path=tuple(paths[name] for name in order), documents=limit)
        parts = corpora.split(source, shards)
        found = [[d.sentences[0] for p in part for d in corpora.documents(p)] for part in parts]
        assert collections.Counter(sum(found, [])) == collections.Counter(everything[:limit])
        assert all(part == [one for one in everything if one in part] for part in found)


def test_a_limit_that_counts_something_else_is_refused(tmp_path):
    text, table = write(tmp_path / "a.txt", "a\nb\n"), write(tmp_path / "a.tsv", "text\na\nb\n")
    with pytest.raises(SourceError, match=r"a.txt: rows=1 .* limit it by documents"):
        next(corpora.documents(Source(path=text, rows=1)))
    for path in (text, table):
        with pytest.raises(SourceError, match=r"documents=1 .* limit it by rows"):
            next(corpora.rows(Source(path=path, documents=1)))
    assert len([*corpora.documents(Source(path=table, rows=1))]) == 1  # a row is a document
    with pytest.raises(ValueError, match="two limits"):
        Source(path=text, rows=1, documents=1)


def test_stripes_are_single_documents_of_text_and_64_rows_of_tables(tmp_path):
    paths = (
        write(tmp_path / "a.txt", "\n\n".join(map(str, range(70)))),
        jsonl(tmp_path / "b.jsonl", map(str, range(70, 300))),
    )
    first, second = corpora.split(Source(path=paths, documents=1_000), 2)
    found = [int(document.sentences[0]) for document in corpora.documents(first[0])]
    assert found == [*range(0, 70, 2), *range(128, 192), *range(256, 300)]
    found = [int(document.sentences[0]) for document in corpora.documents(second[0])]
    assert found == [*range(1, 70, 2), *range(70, 128), *range(192, 256)]


def test_the_sentences_of_a_table_are_those_of_both_texts(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tother\na. b\tc\nd\t\n")
    assert list(corpora.sentences(Source(path=path, pair="other"))) == ["a.", "b", "c", "d"]


def test_broken_rows_beside_text_are_counted_over_all_files(tmp_path, capsys):
    broken = write(tmp_path / "a.tsv", "text\tlabel\na\t0\nb\n")
    other = write(tmp_path / "c.tsv", "text\tlabel\na\t0\nb\n")
    paths = (broken, write(tmp_path / "b.txt", "c\n\nd\n"), other)
    source = Source(path=paths, broken_rows="skip")
    assert list(corpora.sentences(source)) == ["a", "c", "d", "a"]
    printed = capsys.readouterr().err
    assert printed.startswith(
        f"warning: 2 rows were skipped, the first because {broken}:3 has too few"
    )
    with pytest.raises(SourceError, match=r"a\.tsv:3 has too few columns"):
        list(corpora.documents(Source(path=paths)))


# ---- no reading in vain ------------------------------------------------------------------------


def test_lines_before_a_shard_are_counted_only_where_a_place_is_asked_for(tmp_path, monkeypatch):
    words = [f"line {number}" for number in range(1, 801, 2)]
    shards = corpora.split(Source(path=write(tmp_path / "a.txt", "\n\n".join(words))), 4)
    counted = []
    count = lines.Origin._count
    monkeypatch.setattr(lines.Origin, "_count", lambda self: counted.append(1) or count(self))
    found = [
        [document for piece in shard for document in corpora.documents(piece)] for shard in shards
    ]
    assert not counted
    assert sum(map(len, found)) == len(words)
    for part in found:
        for document in part:
            assert document.where == f"{tmp_path}/a.txt:{document.sentences[0].split()[-1]}"
    assert len(counted) == len(shards)


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize("group", [100, 1_000])
def test_of_a_parquet_file_values_are_made_of_a_shards_rows_alone(
    tmp_path, monkeypatch, shards, group
):
    monkeypatch.setattr(parquet_rows, "_ROWS", 64)
    path = str(tmp_path / "a.parquet")
    parquet.write_table(
        pyarrow.table({"text": [str(n) for n in range(1_000)]}), path, row_group_size=group
    )
    taken = []
    batches = parquet.ParquetFile.iter_batches

    def watched(self, **options):
        for batch in batches(self, **options):
            taken.append(len(batch))
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", watched)
    found = []
    for (piece,) in corpora.split(Source(path=path), shards):
        taken.clear()
        (table,) = corpora.tables_of(piece)
        items = list(table.items())
        found += [table.row(item) for item in items]
        # What is read starts with the row group of the first row, and ends with the last batch.
        start = (items[0].number - 1) // group * group
        assert start + sum(taken) < items[-1].number + 64
    assert [row.text for row in found] == [str(n) for n in range(1_000)]
    assert [row.where for row in found] == [f"{path}:row {n}" for n in range(1, 1_001)]
