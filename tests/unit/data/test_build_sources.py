"""Builds whose sources are broken, change meanwhile, or cannot be left out; and what they count."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from pd_jax.config import Rows, Source
from pd_jax.data.building import plans
from pd_jax.data.building.build import build_records
from pd_jax.data.records import manifest, shards
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.records.doubts import doubts
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers import tokenizer as tokenizer_lib
from pd_jax.errors import ConfigError, RecordsError, SourceError
from pd_jax.tools import build_records as tool
from pd_jax.tools import command
from tests.building import (
    CLS,
    PIECES,
    SEP,
    UNK,
    A,
    B,
    C,
    build_rows,
    rows_of,
    stage,
    wordpiece,
    write_corpus,
)


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


# ---- what is excluded --------------------------------------------------------------------------

PAIRS, PAIR = "one\ttwo\na\tb\nc\ta\n", {"text": "one", "pair": "two"}


@pytest.mark.parametrize("name", ["dev.tsv", "dev.txt"])
def test_pairs_cannot_be_kept_apart_from_single_texts(tmp_path, tokenizer, name):
    (tmp_path / name).write_text("one\ttwo\na\tb\n")
    exclude = (Source(path=str(tmp_path / name), text="one"),)
    message = rf"exclude: .*{name} has no pair, .* could match its rows; name its column of second"
    with pytest.raises(ConfigError, match=message):
        build_rows(tmp_path, tokenizer, PAIRS, Rows(), columns=PAIR, exclude=exclude)
    single = build_rows(
        tmp_path, tokenizer, PAIRS, Rows(), columns={"text": "one"}, exclude=exclude
    )
    assert single.rows == (1 if name == "dev.tsv" else 2)


def test_the_tool_excludes_by_the_inputs_columns(tmp_path, tokenizer, capsys):
    tokenizer.save(tmp_path / "vocab")
    (tmp_path / "in.tsv").write_text(PAIRS)
    (tmp_path / "dev.tsv").write_text("one\ttwo\nA\tb.\n")
    given = ["--input", tmp_path / "in.tsv", "--text-column", "one", "--pair-column", "two"]
    more = ["--exclude", tmp_path / "dev.tsv", "--tokenizer", tmp_path / "vocab", "--workers", 1]
    options = [*given, *more, "--output", tmp_path / "set"]
    assert command.run(tool.main, [str(one) for one in options]) == 0
    assert rows_of(tmp_path / "set")[0] == [[CLS, C, SEP, A, SEP]]
    assert "without 0 duplicates and 1 texts of evaluation sets" in capsys.readouterr().out


# ---- what is counted ---------------------------------------------------------------------------


def test_broken_rows_are_counted_in_the_manifest_and_told_once(tmp_path, tokenizer, capsys):
    content = "text\n" + "".join(f"w{n}\n" + ("a\tb\n" if n % 20 == 0 else "") for n in range(200))
    columns = {"broken_rows": "skip"}
    made = build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, shards=4)
    assert made.rows == 200 and made.arguments["left_out"] == {"broken_rows": 10}
    folder = tmp_path / "set"
    noted = [shards.left_out(folder, shard)["broken_rows"] for shard in made.shards]
    assert sum(noted) == 10 and max(noted) < 10
    assert "warning" not in capsys.readouterr().err
    (told,) = doubts(Dataset.open(folder), unk_id=UNK, layout="rows")
    assert told.startswith(f"10 broken rows were skipped for {folder}; to see the first of them,")
    again = build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, shards=4)
    assert again == made


@pytest.mark.parametrize("deduplicate", [False, True])
def test_rows_that_are_skipped_shift_no_duplicate(tmp_path, tokenizer, deduplicate):
    content = "text\na\nx\ty\na\nb\na\n"
    columns = {"broken_rows": "skip"}
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, deduplicate=deduplicate)
    ids, gathered = rows_of(tmp_path / "set")
    texts = [[A], [B]] if deduplicate else [[A], [A], [B], [A]]
    assert ids == [[CLS, *text, SEP] for text in texts]
    counted = {"duplicates": 2, "excluded": 0, "broken_rows": 1}
    expected = counted if deduplicate else {"broken_rows": 1}
    assert Dataset.open(tmp_path / "set").manifest.arguments["left_out"] == expected


def test_a_finished_dataset_needs_no_folder_of_filters(tmp_path, tokenizer):
    content = "a\na\nb\n"
    first = build_rows(tmp_path, tokenizer, content, Rows(), name="a.txt", deduplicate=True)
    assert not (tmp_path / "set" / "left_out").exists()
    again = build_rows(tmp_path, tokenizer, content, Rows(), name="a.txt", deduplicate=True)
    assert again == first and first.arguments["left_out"]["duplicates"] == 1


def test_what_an_earlier_build_left_of_its_filters_is_removed(tmp_path, tokenizer):
    folder = tmp_path / "set" / "left_out"
    folder.mkdir(parents=True)
    np.save(folder / "names-00000-abc.npy", np.zeros(1))
    build_rows(tmp_path, tokenizer, "a\nb\n", Rows(), name="a.txt")
    assert not folder.exists()
    folder.mkdir()
    for name in ("names-00000-abc.npy", "mine.npy"):
        np.save(folder / name, np.zeros(1))
    build_rows(tmp_path, tokenizer, "a\nb\n", Rows(), name="a.txt")
    assert [path.name for path in folder.iterdir()] == ["mine.npy"]


def test_null_for_several_labels_is_no_empty_list(tmp_path, tokenizer):
    layout = Rows(task="multilabel", labels=("x", "y"))
    named = {"name": "rows.jsonl", "columns": {"label": "label"}}
    content = '{"text": "a", "label": []}\n{"text": "b", "label": ""}\n'
    build_rows(tmp_path, tokenizer, content, layout, **named)
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [[0, 0], [0, 0]]
    null = content + '{"text": "c", "label": null}\n'
    with pytest.raises(SourceError, match=r"rows\.jsonl:3 has null for a label; correct the row"):
        build_rows(tmp_path, tokenizer, null, layout, **named)
    inner = content + '{"text": "c", "label": [null]}\n'
    with pytest.raises(SourceError, match=r"rows\.jsonl:3: label 'NoneType' is not one of 'x', "):
        build_rows(tmp_path, tokenizer, inner, layout, **named)


# ---- what changes ------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", ["nothing", "duplicates", "excluded"])
@pytest.mark.parametrize("to", ["text", "nothing"])
def test_a_source_that_changes_while_it_is_read_is_named(
    tmp_path, tokenizer, monkeypatch, left_out, to
):
    path, folder = write_corpus(tmp_path / "a.txt"), tmp_path / "set"
    (tmp_path / "dev.txt").write_text("w1 w2\n")
    options = {
        "nothing": {},
        "duplicates": {"deduplicate": True},
        "excluded": {"exclude": (Source(path=str(tmp_path / "dev.txt")),)},
    }[left_out]
    made, before, real = stage(path, Rows(), shards=3, **options), path.read_text(), corpora.rows

    def changing(source, skipped=None):
        for number, row in enumerate(real(source, skipped)):
            yield row
            if number == 1 and getattr(source, "begin", 0) and path.exists():
                path.write_text(before.replace("w1 ", "w2 ")) if to == "text" else path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "rows", changing)
        with pytest.raises(SourceError, match=r"a\.txt changed while it was read; run the same"):
            build_records(made, tokenizer, folder, name="a", workers=1)
    assert not (folder / "manifest.json").exists()
    path.write_text(before)  # its digest is that of the first plan, whose shards are not to be kept
    again = build_records(made, tokenizer, folder, name="a", workers=1)
    fresh = build_records(made, tokenizer, tmp_path / "fresh", name="a", workers=1)
    assert again == fresh


def test_evaluation_sets_that_change_while_they_are_read_are_named(
    tmp_path, tokenizer, monkeypatch
):
    path, folder = tmp_path / "dev.txt", tmp_path / "set"
    exclude, real = (Source(path=str(path)),), corpora.rows
    path.write_text("a\nb\n")

    def changing(source, skipped=None):
        yield from real(source, skipped)
        path.write_text("a\nc\n")

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "rows", changing)
        with pytest.raises(SourceError, match=r"dev\.txt changed while it was read"):
            build_rows(tmp_path, tokenizer, "text\na\nb\nc\n", Rows(), exclude=exclude)
    path.write_text("a\nb\n")
    build_rows(tmp_path, tokenizer, "text\na\nb\nc\n", Rows(), exclude=exclude)
    assert rows_of(folder)[0] == [[CLS, C, SEP]]


def test_a_new_inode_is_no_change(tmp_path, tokenizer, monkeypatch):
    path, real = write_corpus(tmp_path / "a.txt"), corpora.rows

    def moving(source, skipped=None):
        yield from real(source, skipped)
        path.with_suffix(".copy").write_text(path.read_text())
        shutil.copystat(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").rename(path)

    monkeypatch.setattr(corpora, "rows", moving)
    build_records(stage(path, Rows()), tokenizer, tmp_path / "set", name="a", workers=1)


def test_reading_the_digests_of_much_text_is_shown(tmp_path, tokenizer, monkeypatch, capsys):
    made = stage(write_corpus(tmp_path / "a.txt"), Rows())
    build_records(made, tokenizer, tmp_path / "first", name="a", workers=1)
    assert "digests" not in capsys.readouterr().err
    monkeypatch.setattr(plans, "_SHOWN_BYTES", 1)
    build_records(made, tokenizer, tmp_path / "second", name="a", workers=1)
    assert "reading the sources' digests: 0.0 MB in " in capsys.readouterr().err


# ---- the folder --------------------------------------------------------------------------------


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("held", ["another", "unreadable"])
def test_a_tokenizer_that_is_no_datasets_is_kept(tmp_path, tokenizer, held):
    place, path = tmp_path / "set" / "tokenizer", tmp_path / "a.txt"
    path.write_text("a\n")
    if held == "unreadable":
        place.mkdir(parents=True)
        (place / "notes.txt").write_text("mine")
    else:
        tokenizer_lib.WordPiece([*PIECES, "more"], lowercase=True).save(place)
    before = contents(place)
    with pytest.raises(RecordsError, match="set/tokenizer is another tokenizer, which the dataset"):
        build_records(stage(path, Rows()), tokenizer, tmp_path / "set", name="a", workers=1)
    assert contents(place) == before
    os.rename(place, tmp_path / "elsewhere")
    build_records(stage(path, Rows()), tokenizer, tmp_path / "set", name="a", workers=1)


def test_a_models_folder_takes_no_dataset(tmp_path, tokenizer):
    path, folder = tmp_path / "a.txt", tmp_path / "model"
    path.write_text("a\n")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(RecordsError, match="model has a config.json, as .*; name another"):
        build_records(stage(path, Rows()), tokenizer, folder, name="a", workers=1)
    assert list(contents(folder)) == ["config.json"]


@pytest.mark.parametrize("left", ["vocab.txt", "tokenizer.json", ".vocab.txt.partial-7-a"])
def test_what_a_build_interrupted_at_its_start_left_is_replaced(tmp_path, tokenizer, left):
    place, path = tmp_path / "set" / "tokenizer", tmp_path / "a.txt"
    path.write_text("a\n")
    tokenizer.save(place)
    whole = contents(place)
    for one in place.iterdir():
        one.unlink()
    (place / left).write_bytes(whole.get(left, b"half"))
    made = build_records(stage(path, Rows()), tokenizer, tmp_path / "set", name="a", workers=1)
    assert made.rows == 1 and whole.items() <= contents(place).items()


def test_a_tokenizer_beside_anything_of_records_is_replaced(tmp_path, tokenizer):
    other = tokenizer_lib.WordPiece([*PIECES, "more"], lowercase=True)
    build_rows(tmp_path, other, "a\n", Rows(), name="a.txt")
    (tmp_path / "set" / manifest.FILE).unlink()
    made = build_rows(tmp_path, tokenizer, "a\n", Rows(), name="a.txt")
    assert made.tokenizer.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(("kind", "is_"), [("file", "a file"), ("link", "a link to what does not")])
def test_a_file_in_place_of_the_folder_is_named(tmp_path, tokenizer, capsys, kind, is_):
    tokenizer.save(tmp_path / "vocab")
    output = tmp_path / "set"
    (tmp_path / "a.txt").write_text("a\n")
    output.write_text("mine") if kind == "file" else output.symlink_to(tmp_path / "nowhere")
    given = ["--input", tmp_path / "a.txt", "--tokenizer", tmp_path / "vocab", "--output", output]
    assert command.run(tool.main, [str(one) for one in given]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {output} is {is_}")
    assert told.endswith("name a folder for the dataset's files")
