"""The same dataset from any number of workers, in shares, killed and repeated, in little memory."""

import functools
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from pd_jax import processes
from pd_jax.config import Corpus, RecordsStage, Rows, Source, TokenizerStage
from pd_jax.data.building import build, plans
from pd_jax.data.building.build import build_records
from pd_jax.data.records.dataset import Dataset
from pd_jax.data.text import corpora
from pd_jax.data.tokenizers import tokenizer as tokenizer_lib
from pd_jax.errors import (
    BrokenRowError,
    ConfigError,
    RecordsError,
    SourceError,
    TokenizerError,
    WorkerError,
)
from tests.building import PIECES, rows_of, stage, wordpiece, write_corpus


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece()


@pytest.mark.parametrize("examples", [Rows(), Corpus(next_sentence=True)])
def test_any_number_of_workers_makes_the_same_files(tmp_path, tokenizer, examples):
    write_corpus(tmp_path / "a.txt", documents=300)
    write_corpus(tmp_path / "b.txt", documents=200, seed=1)
    made = stage(tmp_path / "?.txt", examples, shards=5)
    contents = []
    for workers in (1, 3):
        folder = tmp_path / f"set{workers}"
        manifest = build_records(made, tokenizer, folder, name="a", workers=workers)
        files = (path for path in folder.rglob("*") if path.is_file())
        # What is noted of the sources depends on their age.
        names = sorted(p.relative_to(folder) for p in files if p.name != "digests.json")
        contents.append({name: (folder / name).read_bytes() for name in names})
    assert contents[0] == contents[1]
    rows = [shard.rows for shard in manifest.shards]
    assert len(rows) == 5 and max(rows) < 1.2 * min(rows)


def test_whole_shards_stay_and_only_the_missing_one_is_made(tmp_path, tokenizer, monkeypatch):
    path, folder = write_corpus(tmp_path / "a.txt"), tmp_path / "set"
    made = stage(path, Rows(), shards=4)
    first = build_records(made, tokenizer, folder, name="a", workers=1)
    (folder / first.shards[1].file).unlink()
    shard = folder / first.shards[2].file
    shard.write_bytes(shard.read_bytes()[:-1])
    written = []
    real = build.build_shard
    monkeypatch.setattr(
        build, "build_shard", lambda task, count: (written.append(task.index), real(task, count))[1]
    )
    assert build_records(made, tokenizer, folder, name="a", workers=1) == first
    assert written == [1, 2]
    written.clear()
    assert build_records(made, tokenizer, folder, name="a", workers=1) == first
    assert written == []


@pytest.mark.parametrize("change", ["text", "setting", "vocabulary"])
def test_shards_made_from_something_else_are_made_again(tmp_path, tokenizer, change):
    path, folder = write_corpus(tmp_path / "a.txt"), tmp_path / "set"
    first = build_records(stage(path, Rows()), tokenizer, folder, name="a", workers=1)
    options = {}
    if change == "text":
        path.write_text(path.read_text().replace("w1.", "w2."))
    elif change == "setting":
        options["max_length"] = 9
    else:
        tokenizer = tokenizer_lib.WordPiece([*PIECES, "more"], lowercase=True)
    second = build_records(stage(path, Rows(), **options), tokenizer, folder, name="a", workers=1)
    assert second.fingerprint != first.fingerprint
    assert Dataset.open(folder).manifest == second


def test_another_kind_of_tokenizer_makes_the_shards_anew(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt")
    sentences = path.read_text().split("\n")
    source = Source(path=str(path))
    training = TokenizerStage(source=source, algorithm="unigram", vocab_size=60)
    before = tokenizer_lib.train_tokenizer(iter(sentences), training)
    folders = tmp_path / "set", tmp_path / "fresh"
    build_records(stage(path, Rows()), before, folders[0], name="a", workers=1)
    again, fresh = (
        build_records(stage(path, Rows()), tokenizer, folder, name="a", workers=1)
        for folder in folders
    )
    assert again.fingerprint == fresh.fingerprint
    assert rows_of(folders[0])[0] == rows_of(folders[1])[0]


@pytest.mark.parametrize("change", ["another", "none", "damaged"])
def test_a_finished_dataset_gets_its_own_tokenizer_back(tmp_path, tokenizer, monkeypatch, change):
    made, folder = stage(write_corpus(tmp_path / "a.txt"), Rows(), shards=2), tmp_path / "set"
    first = build_records(made, tokenizer, folder, name="a", workers=1)
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if change == "none":
        (folder / "tokenizer" / "tokenizer.json").unlink()
        (folder / "tokenizer" / "vocab.txt").unlink()
    elif change == "damaged":
        (folder / "tokenizer" / "tokenizer.json").write_text("{")
    else:  # a build with another one was interrupted before its first shard
        other = tokenizer_lib.WordPiece([*PIECES, "more"], lowercase=True)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(build, "build_shard", interrupted)
            build_records(made, other, folder, name="a", workers=1)
        assert not (folder / "manifest.json").exists(), "two builds' files pass for one dataset"
    assert build_records(made, tokenizer, folder, name="a", workers=1) == first
    content.pop(folder / "digests.json", None)  # written once the source is old enough
    assert {path: path.read_bytes() for path in content} == content


def interrupted(task, count):
    raise KeyboardInterrupt


def test_no_older_manifest_stands_while_shards_are_replaced(tmp_path, tokenizer, monkeypatch):
    made, folder = stage(write_corpus(tmp_path / "a.txt"), Rows(), shards=2), tmp_path / "set"
    first = build_records(made, tokenizer, folder, name="a", workers=1)
    (folder / first.shards[1].file).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "build_shard", interrupted)
        build_records(made, tokenizer, folder, name="a", workers=1)
    assert not (folder / "manifest.json").exists()
    assert build_records(made, tokenizer, folder, name="a", workers=1) == first


def test_a_name_that_no_shard_can_have_is_refused_before_any_work(tmp_path, tokenizer):
    made = stage(tmp_path / "missing.txt", Rows())
    with pytest.raises(ConfigError, match="a dataset cannot have the name 'wiki/en'"):
        build_records(made, tokenizer, tmp_path / "set", name="wiki/en")


def test_a_folder_that_came_to_hold_another_tokenizer_is_refused(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    with pytest.raises(TokenizerError, match=r"tokenizer has a different tokenizer .* build again"):
        build._tokenizer(str(tmp_path), "of another")
    assert build._tokenizer(str(tmp_path), tokenizer.fingerprint).vocab_size == len(PIECES)


@pytest.mark.parametrize("change", [{"columns": ("other", "text")}, {"broken_rows": "skip"}])
def test_shards_of_a_file_that_is_read_otherwise_are_made_again(
    tmp_path, tokenizer, monkeypatch, change
):
    path, folder = tmp_path / "a.tsv", tmp_path / "set"
    path.write_text("".join(f"w{number}\tw{number + 1}\n" for number in range(60)))
    columns = {"columns": ("text", "other")}
    first = stage(path, Rows(), columns=columns, shards=3)
    second = stage(path, Rows(), columns=columns | change, shards=3)
    build_records(first, tokenizer, folder, name="a", workers=1)
    made = []
    real = build.build_shard
    monkeypatch.setattr(
        build, "build_shard", lambda task, count: (made.append(task.index), real(task, count))[1]
    )
    build_records(second, tokenizer, folder, name="a", workers=1)
    assert made == [0, 1, 2]


def test_names_of_documents_are_not_taken_for_those_of_rows(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("w1\nw2\n\nw1\nw3\n\nw1\nw2\n")

    def interrupted(task, count):
        raise RecordsError("the disk is full")

    options = {"shards": 2, "deduplicate": True}
    with monkeypatch.context() as patch, pytest.raises(RecordsError, match="disk is full"):
        patch.setattr(build, "build_shard", interrupted)
        build_records(
            stage(path, Corpus(), **options), tokenizer, tmp_path / "set", name="a", workers=1
        )
    made = build_records(
        stage(path, Rows(), **options), tokenizer, tmp_path / "set", name="a", workers=1
    )
    assert made.rows == 3 and made.arguments["left_out"]["duplicates"] == 3


def test_a_fault_in_a_worker_is_told_as_it_is(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n" * 2_000 + b"\xff\n" + b"fine\n" * 2_000)
    with pytest.raises(SourceError, match=r"a\.txt:2001 is not UTF-8"):
        build_records(
            stage(path, Rows(), shards=4), tokenizer, tmp_path / "set", name="a", workers=2
        )


def test_a_broken_row_in_a_worker_is_refused_with_its_remedies(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    whole = '{"text": "fine"}\n' * 2_000
    path.write_text(f'{whole}{{"text": null}}\n{whole}')
    expected = r"a\.jsonl:2001 has null in column 'text'.*; correct the row.*broken_rows='skip'"
    with pytest.raises(BrokenRowError, match=expected):
        build_records(
            stage(path, Rows(), shards=4), tokenizer, tmp_path / "set", name="a", workers=2
        )


def _die(task, count):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_no_hang(tmp_path, tokenizer, monkeypatch):
    path = write_corpus(tmp_path / "a.txt")
    monkeypatch.setattr(build, "build_shard", _die)
    with pytest.raises(WorkerError, match="a worker process was killed.*fewer workers"):
        build_records(
            stage(path, Rows(), shards=4), tokenizer, tmp_path / "set", name="a", workers=2
        )


PROGRAM = """
import sys
from pd_jax.config import Corpus, RecordsStage, Source
from pd_jax.data.building.build import build_records
from pd_jax.data.tokenizers.tokenizer import load_tokenizer
if __name__ == "__main__":
    text, vocabulary, folder, workers = sys.argv[1:]
    source = Source(path=text)
    stage = RecordsStage(source=source, tokenizer="unused", examples=Corpus(), shards=24)
    made = build_records(stage, load_tokenizer(vocabulary), folder, name="a", workers=int(workers))
    heavy = {"jax", "grain", "torch", "tensorflow", "flax"} & set(sys.modules)
    print(made.fingerprint, *heavy)
"""


def run_program(tmp_path, folder, workers):
    (tmp_path / "program.py").write_text(PROGRAM)
    root = pathlib.Path(build.__file__).parents[3]
    arguments = [
        tmp_path / "program.py",
        tmp_path / "a.txt",
        tmp_path / "vocab.txt",
        folder,
        workers,
    ]
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def test_a_build_killed_and_repeated_equals_an_undisturbed_one(tmp_path, tokenizer):
    write_corpus(tmp_path / "a.txt", documents=2_000, sentences=40)
    tokenizer.save(tmp_path)
    whole = run_program(tmp_path, tmp_path / "whole", 1).communicate()[0].strip()
    assert len(whole) == 32, "the core's heavy libraries have no place in a build"
    folder = tmp_path / "set"
    for wanted in (2, 8):
        process = run_program(tmp_path, folder, 2)
        while len(list(folder.glob("*.shard.json"))) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert not (folder / "manifest.json").exists()
    done, errors = run_program(tmp_path, folder, 2).communicate()
    assert done.strip() == whole
    deadline = time.monotonic() + 20
    while list(folder.glob(".*partial*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert json.loads((folder / "manifest.json").read_text())["rows"] > 0


def test_a_whole_build_without_a_shard_is_no_success(tmp_path, tokenizer):
    made = stage(write_corpus(tmp_path / "a.txt", documents=20), Rows(), shards=2)
    whole = {"name": "a", "share": build.Share(0, 1)}
    with pytest.raises(RecordsError, match="lacks shard 0 of 2 though the build has ended; run"):
        build.build_share(
            made, tokenizer, tmp_path / "set", **whole, run=lambda *given, **more: iter(())
        )


@pytest.mark.parametrize("deduplicate", [False, True])
def test_shares_made_apart_are_the_whole(tmp_path, tokenizer, deduplicate):
    path = write_corpus(tmp_path / "a.txt", documents=200)
    made = stage(path, Rows(), shards=5, deduplicate=deduplicate)
    whole = build_records(made, tokenizer, tmp_path / "whole", name="a", workers=1)
    run = functools.partial(processes.run, workers=1)
    results = [
        build.build_share(
            made, tokenizer, tmp_path / "set", name="a", run=run, share=build.Share(index, 3)
        )
        for index in (2, 0, 1)
    ]
    assert results == [None, None, whole]
    assert Dataset.open(tmp_path / "set").manifest == whole


def test_of_shares_made_together_each_looks_for_duplicates_in_its_own_text_first(
    tmp_path, tokenizer, monkeypatch
):
    path, folder = write_corpus(tmp_path / "a.txt", documents=200), tmp_path / "set"
    made, real = stage(path, Rows(), shards=5, deduplicate=True), corpora.rows
    orders, read = [], []

    def counted(piece, skipped):
        read.append(piece)
        return real(piece, skipped)

    def run(job, tasks, *, report):
        orders.append([task.index for task in tasks])
        if len(orders) == 1:  # at this very moment, another share is made
            share(0)
        yield from processes.run(job, tasks, workers=1, report=report)

    def share(index):
        build.build_share(made, tokenizer, folder, name="a", run=run, share=build.Share(index, 3))

    monkeypatch.setattr(corpora, "rows", counted)
    share(1)
    scans, shards_made = [[1, 4, 2, 0, 3], [0, 3, 1, 4, 2]], [[0, 3], [1, 4]]
    assert orders == scans + shards_made
    assert len(read) == 5 + 4, "once for the names of every shard, once for every shard made"


# ---- memory ------------------------------------------------------------------------------------


WORKER = """
import sys
from pd_jax import processes

def heavy(task, count):
    import resource
    found = {"jax", "flax", "torch", "grain"} & set(sys.modules)
    return sorted(found), "program" in sys.modules["__main__"].__dict__
"""


def test_workers_do_not_import_the_program_that_starts_them(tmp_path):
    (tmp_path / "jobs.py").write_text(WORKER)
    (tmp_path / "program.py").write_text(
        "import jax, jobs\nfrom pd_jax import processes\nprogram = True\n"
        "for _, result in processes.run(jobs.heavy, [1, 2], workers=2):\n"
        "    print(result)\n"
    )
    root = pathlib.Path(build.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
    )  # fmt: skip
    # Without the guard of a main module, importing the program again would start it again.
    assert done.stdout == "([], False)\n" * 2, done.stderr


def test_an_error_of_one_worker_ends_the_others(tmp_path, monkeypatch):
    lines = ("import time", "def wait(seconds, count):", " time.sleep(seconds or 1 / 0)")
    (tmp_path / "waiting.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(processes.run(importlib.import_module("waiting").wait, [120, 0], workers=2))
    assert time.monotonic() - began < 60


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("ending", "count"),
    [
        ("txt", 2_800_000),
        ("jsonl", 2_800_000),
        pytest.param("txt", 11_000_000, marks=pytest.mark.slow),  # 50 MB
    ],
)
def test_memory_is_bounded_however_long_a_line_is(tmp_path, tokenizer, ending, count):
    words = " ".join(f"w{number % 200}" for number in range(count))
    content = json.dumps({"text": words}) if ending == "jsonl" else words
    (tmp_path / f"a.{ending}").write_text(f"{content}\n")
    tokenizer.save(tmp_path)
    program = (
        "import sys\nfrom pd_jax.tools import build_records, command\n"
        "status = command.run(build_records.main, sys.argv[1:])\n"
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
        "sys.exit(status)\n"
    )
    arguments = ["--input", tmp_path / f"a.{ending}", "--layout", "corpus", "--workers", "1"]
    arguments += ["--tokenizer", tmp_path / "vocab.txt", "--output", tmp_path / "set"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(build.__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) < 300 * 1024  # kB, the most memory it ever had
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.manifest.tokens - 2 * len(dataset) == count


def test_shards_follow_from_the_size_of_the_text_alone(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.truncate(200 << 20)  # a hole of so many bytes
    path.with_suffix(".csv").hardlink_to(path)

    def shards(**changes) -> int | None:
        source = Source(**{"path": str(path), **changes})
        made = RecordsStage(source=source, tokenizer="unused", examples=Rows())
        return plans.with_shards(made).shards

    assert shards() == 25
    # What each shard must read from its top is divided less.
    assert shards(rows=1_000) == shards(path=str(path.with_suffix(".csv"))) == 8
    path.write_text("a\n")
    assert shards() == 1
