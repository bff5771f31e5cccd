"""Files that are not what their names say, and sentences of several scripts."""

import bz2
import io
import lzma
import zipfile

import pytest

from pd_jax.config import Source
from pd_jax.data.text import corpora
from pd_jax.errors import SourceError

TEXT = "".join(f"a good film {number}\n" for number in range(500)).encode()
ZSTD = bytes.fromhex("28b52ffd24036100006865790a")
"""A small frame; Python writes none before 3.14."""


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), TEXT)
    return stream.getvalue()


COMPRESSED = {
    "zstd": (".zst", ZSTD),
    "bzip2": (".bz2", bz2.compress(TEXT)),
    "xz": (".xz", lzma.compress(TEXT)),
    "zip": (".zip", zipped()),
}


def write(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(source) -> list[str]:
    pieces = [piece for part in corpora.split(source) for piece in part]
    return [row.text for piece in pieces for row in corpora.rows(piece)]


@pytest.mark.parametrize("kind", list(COMPRESSED))
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.txt.gz", "a.parquet"])
def test_a_file_compressed_otherwise_is_known_by_its_first_bytes(tmp_path, kind, name):
    path = write(tmp_path / name, COMPRESSED[kind][1])
    with pytest.raises(SourceError, match=f"{name} is compressed by {kind}; unpack it, or compr"):
        read(Source(path=path))


@pytest.mark.parametrize("kind", list(COMPRESSED))
def test_a_file_compressed_otherwise_is_known_by_its_ending(tmp_path, kind):
    ending, content = COMPRESSED[kind]
    path = write(tmp_path / f"a.txt{ending}", content)
    for form in ("auto", "text"):
        with pytest.raises(SourceError, match=f"{ending} is compressed by {kind}; unpack it, or"):
            read(Source(path=path, format=form))


def test_text_that_begins_like_a_compressed_file_is_read(tmp_path):
    assert read(Source(path=write(tmp_path / "a.txt", "BZh9 a\nPK b\n"))) == ["BZh9 a", "PK b"]


def test_newline_delimited_json_is_read_by_both_its_names(tmp_path):
    content = '{"text": "a"}\n{"text": "b"}\n'
    for name in ("a.jsonl", "a.ndjson"):
        assert read(Source(path=write(tmp_path / name, content))) == ["a", "b"]
    path = write(tmp_path / "a.json", content)
    with pytest.raises(SourceError, match=r"a\.json .*object a line, name it \.jsonl or give form"):
        read(Source(path=path))
    assert read(Source(path=path, format="jsonl")) == ["a", "b"]


@pytest.mark.parametrize(("name", "between"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_without_a_header_is_told_how_to_name_its_columns(tmp_path, name, between):
    review = "a film of rare charm and " * 20
    path = write(tmp_path / name, f"1{between}{review}\n0{between}bad\n")
    with pytest.raises(SourceError) as fault:
        read(Source(path=path, label="label"))
    shown = str(fault.value)
    assert "has no column 'text'; its columns are '1', 'a film of rare charm" in shown
    assert "where the first row is no header, name the columns with columns=(...) in" in shown
    assert len(shown) < len(path) + 290
    named = Source(path=path, label="label", columns=("label", "text"))
    assert read(named) == [review.strip(), "bad"]
    with pytest.raises(SourceError) as fault:
        read(Source(path=path, columns=("label", "words")))
    assert str(fault.value).endswith("its columns are 'label', 'words'")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "यह अच्छा है। वह नहीं।राम आया॥ सीता गई।।",
            ["यह अच्छा है।", "वह नहीं।", "राम आया॥", "सीता गई।।"],
        ),
        ("هل هو جيد؟ نعم.", ["هل هو جيد؟", "نعم."]),
        ("یہ اچھا ہے۔ پی۔ایچ۔ڈی نہیں۔", ["یہ اچھا ہے۔", "پی۔ایچ۔ڈی نہیں۔"]),
        ("Լավ է։ Ժամը 10։30 է։", ["Լավ է։", "Ժամը 10։30 է։"]),
        ("ጥሩ ነው።አይደለም፧ አዎ።", ["ጥሩ ነው።", "አይደለም፧", "አዎ።"]),
        ("ကောင်းတယ်။မကောင်းဘူး။", ["ကောင်းတယ်။", "မကောင်းဘူး။"]),
        ("ｲｲ｡ﾜﾙｲ｡", ["ｲｲ｡", "ﾜﾙｲ｡"]),
        ("是的。不！真的？ 3.5 m. Yes", ["是的。", "不！", "真的？", "3.5 m.", "Yes"]),
    ],
)
def test_a_running_text_is_cut_after_the_stops_of_its_script(tmp_path, text, sentences):
    path = write(tmp_path / "a.tsv", f"text\n{text}\n")
    assert list(corpora.sentences(Source(path=path))) == sentences
