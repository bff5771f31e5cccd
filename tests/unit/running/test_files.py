"""Whole files only, and what is left of those that were not finished."""

import errno
import os
import sys

import fsspec
import pytest
from etils import epath

from pd_jax import files, planning
from pd_jax.config import Source, reading
from pd_jax.data.text import corpora
from pd_jax.errors import RecordsError, StageError, no_space, sentence_of
from pd_jax.inputs import InputDigests


def test_partial_files_and_folders_are_removed_and_nothing_else(tmp_path):
    for name in ("a/.x.json.partial-7", "a/x.json", ".model.partial-7/w", ".model.replaced-9/w"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    files.remove_partial(tmp_path)
    assert [path.name for path in files.files_below(tmp_path)] == ["x.json"]
    files.remove_partial(tmp_path / "nowhere")


def test_names_are_matched_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "h[1]*?"
    assert files.matching(folder, "*") == []
    folder.mkdir()
    for name in ("b.model", "a.model", "a.txt", "[c].model"):
        (folder / name).write_text("content")
    assert [path.name for path in files.matching(folder, "*.model")] == [
        "[c].model",
        "a.model",
        "b.model",
    ]
    assert files.matching(folder / "a.txt", "*") == []


def test_a_folder_is_digested_by_all_files_below_it(tmp_path):
    folder = tmp_path / "teacher"
    (folder / "inside").mkdir(parents=True)
    for name in ("b", "inside/a", "c"):
        (folder / name).write_text(name)
    assert [path.name for path in files.files_below(folder)] == ["b", "c", "a"]

    def digest() -> str:
        return InputDigests(epath.Path(tmp_path / "inputs.json")).of(str(folder), stage="labels")

    before = digest()
    assert before == digest()
    (folder / "inside" / "a").write_text("other")
    assert before != digest()


def test_of_a_model_folder_what_is_read_counts(tmp_path):
    folder = tmp_path / "teacher"
    (folder / "runs").mkdir(parents=True)

    def digest() -> str:
        return InputDigests(epath.Path(tmp_path / "inputs.json")).of(str(folder), stage="labels")

    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    before = digest()
    for name in ("README.md", ".cache", "runs/events"):
        (folder / name).write_text(name)
    assert digest() == before
    (folder / "manifest.json").write_text("{}")  # a stranger's, which tells nothing of the weights
    with_manifest = digest()
    (folder / "model.safetensors").write_text("others weights")
    assert len({before, with_manifest, digest()}) == 3


def test_a_tokenizers_file_counts_with_what_decides_how_it_is_read(tmp_path):
    def digest(name: str, tokenizer: bool = True) -> str:
        digests = InputDigests(epath.Path(tmp_path / "inputs.json"))
        return digests.of(str(tmp_path / name), stage="records", tokenizer=tokenizer)

    for name in ("vocab.txt", "pieces.model"):
        (tmp_path / name).write_text("[PAD]")
        assert digest(name) == digest(name, tokenizer=False)
    alone, found = digest("pieces.model"), {digest("vocab.txt")}
    for name in ("tokenizer_config.json", "config.json", "added_tokens.json"):
        for content in ("{}", '{"do_lower_case": false}'):
            (tmp_path / name).write_text(content)
            found.add(digest("vocab.txt"))
    (tmp_path / "rows.txt").write_text("a row")
    found.add(digest("vocab.txt"))
    assert len(found) == 7
    assert digest("pieces.model") == alone


def test_a_file_that_is_read_in_another_format_is_another_input(tmp_path):
    def fingerprint(ending: str, **columns: str) -> str:
        path = tmp_path / f"rows.{ending}"
        path.write_text("text")
        stage = {
            "kind": "records",
            "source": {"path": str(path), **columns},
            "tokenizer": str(tmp_path / "rows.txt"),
            "examples": {"layout": "rows"},
        }
        pipeline = reading.pipeline_from({"name": "p", "stages": {"rows": stage}})
        return planning.plan(pipeline, epath.Path(tmp_path / "work"))["rows"].fingerprint

    texts = [fingerprint(ending) for ending in ("txt", "tsv", "csv", "jsonl", "txt.gz")]
    pairs = [fingerprint(ending, pair="pair") for ending in ("txt", "tsv", "csv")]
    assert len(set(texts)) == 4 and texts[0] == texts[-1]
    assert len(set(pairs)) == 3
    assert fingerprint("txt", format="text") == fingerprint("csv", format="text")


def test_a_file_changed_twice_within_a_second_has_two_digests(tmp_path):
    path, cache = tmp_path / "corpus.txt", tmp_path / "digests.json"

    def digest() -> str:
        digests = files.DigestCache(cache, StageError)
        found = digests.of(path)
        digests.save()
        return found

    path.write_text("one")
    first = digest()
    path.write_text("two")
    second = digest()
    assert first != second and not cache.exists()
    os.utime(path, (1e9, 1e9))
    assert digest() == second
    cache.write_text(cache.read_text().replace(second, "5" * 32))
    assert digest() == "5" * 32
    other = tmp_path / "other"
    other.write_text("two")
    os.utime(other, (1e9, 1e9))
    other.rename(path)
    assert digest() == second, "another file of one size and time was taken for the first"


def test_digests_of_files_with_any_name_are_kept(tmp_path):
    cache = tmp_path / "digests.json"
    path = tmp_path / "a\u3000b\u00a0c.txt"
    path.write_text("text")
    os.utime(path, (1e9, 1e9))
    digests = files.DigestCache(cache, StageError)
    digests.of(path)
    digests.save()
    assert cache.exists()
    assert files.DigestCache(cache, StageError).of(path) == files.digest_file(path)


def test_a_stage_has_the_digest_of_the_very_files_that_are_read(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for name in ("folder.txt/c.txt", "y[1].txt", "y1.txt"):
        (tmp_path / name).write_text(name)
    digests = InputDigests(epath.Path(tmp_path / "inputs.json"))
    for pattern in ("*.txt", "y[1].txt", "y?.txt", "*/*.txt"):
        path = str(tmp_path / pattern)
        found = [file.path for file in corpora.source_files(Source(path=path))]
        expected = files.digest_json([files.digest_file(name) for name in found])
        assert digests.of(path, stage="records") == expected
    for pattern, message in (("**/*.txt", r"has \*\*"), ("none", "none does not exist; check")):
        with pytest.raises(StageError, match=f"stage 'records' cannot read.*{message}"):
            digests.of(str(tmp_path / pattern), stage="records")


def test_lines_are_appended_after_a_torn_one_was_taken_off(tmp_path):
    path = tmp_path / "spans.jsonl"
    files.append_lines(path, ["one", "two"])
    path.write_bytes(path.read_bytes() + b'{"na')
    files.append_lines(path, ["three"])
    assert path.read_text() == "one\ntwo\nthree\n"
    path.write_bytes(b"torn")
    files.append_lines(path, [])
    assert path.read_bytes() == b""


def test_a_path_that_is_not_utf8_reads_back_from_json(tmp_path):
    path = os.fsdecode(b"runs/\xe4")
    files.write_json(tmp_path / "a.json", {"workdir": path})
    assert files.read_json(tmp_path / "a.json", StageError) == {"workdir": path}
    files.write_text(tmp_path / "a.html", path)
    assert (tmp_path / "a.html").read_bytes() == rb"runs/\udce4"


def test_a_bucket_without_gcsfs_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError) as fault:
        fsspec.get_filesystem_class("gs")
    assert sentence_of(fault.value).endswith("pip install 'pd_jax[gcs]'")
    assert sentence_of(ImportError("No module named 'torch'")) == ""


def test_a_full_disk_is_recognised_through_what_libraries_make_of_it():
    full = OSError(errno.ENOSPC, "No space left on device", "/a")
    assert "No space left on device: '/a'" in no_space(full)
    wrapped = ValueError("save failed")
    wrapped.__cause__ = RuntimeError("RESOURCE_EXHAUSTED: write: No space left on device [28]")
    assert no_space(wrapped).startswith("RESOURCE_EXHAUSTED")
    assert no_space(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert no_space(OSError(errno.EACCES, "Permission denied", "/a")) == ""
    assert no_space(None) == ""
    assert sentence_of(full).startswith("the disk is full (")
    locked = PermissionError(errno.EACCES, "Permission denied", "/a")
    sentence = "/a: Permission denied; fix its permissions or choose another path"
    assert sentence_of(locked) == sentence
    assert sentence_of(RecordsError("x is damaged")) == "x is damaged"
    assert sentence_of(KeyError("bug")) == ""


def test_a_folder_takes_the_place_of_its_like_alone(tmp_path):
    place = tmp_path / "models"

    def is_older(folder):
        return (folder / "config.json").exists()

    def write(content):
        with files.whole_folder(place, is_older=is_older, error=StageError) as folder:
            (folder / "config.json").write_text(content)

    write("1")
    write("2")
    assert (place / "config.json").read_text() == "2"
    (place / "other").mkdir()
    with pytest.raises(StageError, match=r"models contains \w+.* choose an empty or new"):
        write("3")
    (place / "other").rmdir()
    (place / "LICENSE").write_text("mine")
    with pytest.raises(StageError, match="models contains LICENSE, .* move that elsewhere"):
        write("3")
    assert (place / "config.json").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    (place / "LICENSE").unlink()
    (place / "config.json").rename(place / "notes.txt")
    with pytest.raises(StageError, match=r"models contains notes\.txt"):
        write("3")
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--config=/home/me/a.py:x --workdir=/w/runs/b", "--config=…/a.py:x --workdir=…/b"),
        ('{"path": ["/data/a/b.txt", "c/d.txt"]}', '{"path": ["…/b.txt", "c/d.txt"]}'),
        ('{"path": "/data/my texts/a.txt", "b": "/x"}', '{"path": "…/a.txt", "b": "…/x"}'),
        ("/home/me/a.py", "…/a.py"),
        ("it needs /data/a/b, which is gone", "it needs …/b, which is gone"),
        ("gs://bucket/a/b and a/b/c and 1/2/3", "gs://bucket/a/b and a/b/c and 1/2/3"),
    ],
)
def test_a_text_for_others_has_the_last_part_of_each_absolute_path(text, shown):
    assert files.without_folders(text) == shown
