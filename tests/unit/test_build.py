"""Datasets built from text: the right tokens, the same from any number of workers, resumable."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_jax.config import Corpus, RecordsStage, Rows, Source
from pd_jax.data import build, layouts, tokenizers
from pd_jax.data import workers as pool
from pd_jax.data.build import build_records
from pd_jax.data.records import Dataset, example_id
from pd_jax.errors import ConfigError, RecordsError, SourceError

WORDS = [f"w{number}" for number in range(200)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *"abcdefgh", *WORDS]
PAD, UNK, CLS, SEP, MASK, DOT, A, B, C, D, E, F, G, H = range(14)
FIRST_WORD = PIECES.index("w0")


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.WordPiece(PIECES, lowercase=True)


def stage(path, examples, *, columns=None, **options):
    options = {"max_length": 16, **options}
    source = Source(path=str(path), **(columns or {}))
    return RecordsStage(source=source, tokenizer="unused", examples=examples, **options)


def rows_of(folder):
    """A dataset's rows as lists of ids, and everything else as it was gathered."""
    dataset = Dataset.open(folder)
    gathered = dataset.gather(np.arange(len(dataset)))
    ends = np.cumsum(gathered.lengths)[:-1]
    return [part.tolist() for part in np.split(gathered.tokens, ends)], gathered


def build_rows(tmp_path, tokenizer, content, examples, *, name="rows.tsv", columns=None, **options):
    (tmp_path / name).write_text(content, encoding="utf-8")
    made = stage(tmp_path / name, examples, columns=columns, **options)
    return build_records(made, tokenizer, tmp_path / "set", name="rows", workers=1)


# ---- rows --------------------------------------------------------------------------------------


def test_single_sentences_are_framed_and_cut(tmp_path, tokenizer):
    manifest = build_rows(
        tmp_path, tokenizer, "a b\n\nc\na b c d e f g h\n", Rows(), name="a.txt", max_length=8
    )
    ids, gathered = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, B, SEP], [CLS, C, SEP], [CLS, A, B, C, D, E, F, SEP]]
    assert gathered.segments is None and gathered.labels is None
    assert (manifest.rows, manifest.tokens, manifest.max_length, manifest.task) == (3, 15, 8, None)
    assert gathered.example_ids[1].tobytes() == example_id("c")
    again = tokenizers.load_tokenizer(tmp_path / "set" / "tokenizer")
    assert again.fingerprint == manifest.tokenizer.fingerprint == tokenizer.fingerprint


def test_pairs_give_up_tokens_of_the_longer_text(tmp_path, tokenizer):
    content = "one\ttwo\na b c d e f\tg h\na b\tc d e f g\na b c d e f\ta b c d e f\n"
    columns = {"text": "one", "pair": "two"}
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, max_length=10)
    ids, gathered = rows_of(tmp_path / "set")
    assert ids == [
        [CLS, A, B, C, D, E, SEP, G, H, SEP],
        [CLS, A, B, SEP, C, D, E, F, G, SEP],
        [CLS, A, B, C, D, SEP, A, B, C, SEP],
    ]
    assert gathered.segments.reshape(3, 10).tolist() == [
        [0] * 7 + [1] * 3, [0] * 4 + [1] * 6, [0] * 6 + [1] * 4
    ]  # fmt: skip
    assert gathered.example_ids[0].tobytes() == example_id("a b c d e f", "g h")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 40))
def test_truncation_equals_taking_one_token_after_the_other(first, second, room):
    one, two = first, second
    while one + two > room:
        if one > two:
            one -= 1
        else:
            two -= 1
    assert layouts.shortened(first, second, room=room) == (one, two)


def test_classes_are_numbered_as_they_are_named(tmp_path, tokenizer):
    content = "text\tlabel\na\tgood\nb\tbad\nc\t1\n"
    labelled = Rows(task="classification", labels=("bad", "good"))
    manifest = build_rows(tmp_path, tokenizer, content, labelled, columns={"label": "label"})
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [1, 0, 1]
    assert manifest.labels == ("bad", "good") and manifest.task == "classification"


def test_regression_and_several_labels(tmp_path, tokenizer):
    columns = {"label": "label"}
    content = "text\tlabel\na\t2.5\nb\t-1e3\n"
    build_rows(tmp_path, tokenizer, content, Rows(task="regression"), columns=columns)
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [2.5, -1000.0]
    content = "text\tlabel\na\tx|z\nb\t\nc\ty\n"
    several = Rows(task="multilabel", labels=("x", "y", "z"))
    build_rows(tmp_path, tokenizer, content, several, columns=columns)
    assert rows_of(tmp_path / "set")[1].labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


BINARY = Rows(task="classification", labels=("0", "1"))
NAMED = Rows(task="classification", labels=("no", "yes"))
SEVERAL = Rows(task="multilabel", labels=("x", "y"))


@pytest.mark.parametrize(
    ("examples", "content", "message"),
    [
        (BINARY, "a\t0\nb\t2\n", r"rows\.tsv:3: label '2' is none of '0', '1'"),
        (NAMED, "a\tmaybe\n", r"rows\.tsv:2: label 'maybe' is none of 'no', 'yes'"),
        (NAMED, "a\t2\n", r"rows\.tsv:2: label '2' is none of 'no', 'yes'"),
        (SEVERAL, "a\tx|q\n", r"rows\.tsv:2: label 'q' is none of 'x', 'y'"),
        (Rows(task="regression"), "a\thigh\n", r"rows\.tsv:2: label 'high' is no number"),
        (Rows(task="regression"), "a\tnan\n", r"rows\.tsv:2: label 'nan' is no number"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_named_with_file_and_line(
    tmp_path, tokenizer, examples, content, message
):
    with pytest.raises(SourceError, match=message):
        build_rows(
            tmp_path, tokenizer, "text\tlabel\n" + content, examples, columns={"label": "label"}
        )
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_task_and_columns_must_fit_each_other(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="needs a column of labels"):
        build_rows(tmp_path, tokenizer, "text\na\n", Rows(task="regression"))
    with pytest.raises(ConfigError, match="there is no task"):
        build_rows(tmp_path, tokenizer, "text\ty\na\t0\n", Rows(), columns={"label": "y"})
    with pytest.raises(ConfigError, match="leaves no room"):
        build_rows(tmp_path, tokenizer, "text\na\n", Rows(), max_length=4)


@pytest.mark.parametrize("examples", [Rows(), Corpus()])
@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_an_empty_corpus_is_refused_by_name(tmp_path, tokenizer, examples, content):
    with pytest.raises(SourceError, match=r"a\.txt: no(thing| text) in it"):
        build_rows(tmp_path, tokenizer, content, examples, name="a.txt")


# ---- documents ---------------------------------------------------------------------------------


def write_corpus(path, *, documents=60, sentences=12, seed=0):
    """Documents whose sentences are counted words, so that an example shows where it is from."""
    chance = np.random.default_rng(seed)
    texts = []
    for _ in range(documents):
        start = int(chance.integers(len(WORDS)))
        document, word = [], start
        for _ in range(sentences):
            length = int(chance.integers(2, 9))
            document.append(" ".join(WORDS[(word + k) % len(WORDS)] for k in range(length)) + ".")
            word += length
        texts.append("\n".join(document))
    path.write_text("\n\n".join(texts) + "\n")
    return path


def test_documents_fill_sequences_and_lose_no_token(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt")
    build_records(stage(path, Corpus(short_probability=0.0)), tokenizer, tmp_path / "set", name="a")
    ids, gathered = rows_of(tmp_path / "set")
    assert all(row[0] == CLS and row[-1] == SEP for row in ids)
    documents = path.read_text().split("\n\n")
    expected = [
        tokenizer.encode([document.replace("\n", " ")])[0].tolist() for document in documents
    ]
    assert sum((row[1:-1] for row in ids), []) == sum(expected, [])
    # Each document fills its sequences to the last one, which takes the rest.
    lengths = [[14] * (len(d) // 14) + ([len(d) % 14] if len(d) % 14 else []) for d in expected]
    assert [len(row) - 2 for row in ids] == sum(lengths, [])
    assert gathered.next_sentence is None and gathered.segments is None


def test_a_share_of_the_sequences_is_short(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt", documents=1, sentences=20_000)
    made = stage(path, Corpus(short_probability=0.25), max_length=32)
    build_records(made, tokenizer, tmp_path / "set", name="a")
    lengths = Dataset.open(tmp_path / "set").lengths - 2
    # A short target is uniform on 2 to 30, so 28 of 29 short ones show: 0.25 * 28 / 29 = 0.241.
    share = (lengths < 30).mean()
    assert abs(share - 0.241) < 5 * (0.241 * 0.759 / len(lengths)) ** 0.5
    assert lengths.max() == 30 and set(lengths.tolist()) == set(range(2, 31))


def test_next_sentences_follow_or_come_from_elsewhere(tmp_path, tokenizer):
    # Each document counts words from its own start, so a passage that follows continues counting.
    path = write_corpus(tmp_path / "a.txt", documents=300, sentences=40)
    made = stage(path, Corpus(next_sentence=True, short_probability=0.1), max_length=64)
    build_records(made, tokenizer, tmp_path / "set", name="a")
    ids, gathered = rows_of(tmp_path / "set")
    follows = []
    for row in ids:
        middle = row.index(SEP)
        assert row[0] == CLS and row[-1] == SEP and row.count(SEP) == 2 and len(row) <= 64
        one = [number - FIRST_WORD for number in row[1:middle] if number != DOT]
        two = [number - FIRST_WORD for number in row[middle + 1 : -1] if number != DOT]
        assert all(
            (b - a) % len(WORDS) == 1
            for part in (one, two)
            for a, b in zip(part, part[1:], strict=False)
        )
        follows.append((two[0] - one[-1]) % len(WORDS) if one and two else None)
    labels = gathered.next_sentence
    full = gathered.lengths == 64
    known = [
        (gap, label)
        for gap, label, whole in zip(follows, labels, full, strict=True)
        if gap and not whole
    ]
    assert len(known) > 300
    # What was cut to fit may have lost its ends; nothing else may break the count.
    assert all(gap == 1 for gap, label in known if label == 0)
    assert sum(gap == 1 for gap, label in known if label == 1) < 0.05 * len(known)
    # Half, and a little more: the last sentence of a document has nothing that follows it.
    assert 0.48 < labels.mean() < 0.62
    second = [row.index(SEP) + 1 for row in ids]
    ends = np.split(gathered.segments, np.cumsum(gathered.lengths)[:-1])
    assert all(
        part.tolist() == [0] * at + [1] * (len(part) - at)
        for part, at in zip(ends, second, strict=True)
    )


def test_a_single_document_has_no_random_next_sentence(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt", documents=1)
    with pytest.raises(SourceError, match=r"a\.txt:1: its shard holds only one document"):
        build_records(
            stage(path, Corpus(next_sentence=True)), tokenizer, tmp_path / "set", name="a"
        )


def test_chance_depends_on_the_seed_and_on_the_shard(tmp_path, tokenizer):
    path = write_corpus(tmp_path / "a.txt")
    prints = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"set{len(prints)}"
        made = stage(path, Corpus(seed=seed, short_probability=0.5))
        prints.append(build_records(made, tokenizer, folder, name="a").fingerprint)
    assert prints[0] == prints[1] != prints[2]


# ---- many processes ----------------------------------------------------------------------------


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
        names = sorted(p.relative_to(folder) for p in files if p.name != "sources.json")
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
        tokenizer = tokenizers.WordPiece([*PIECES, "more"], lowercase=True)
    second = build_records(stage(path, Rows(), **options), tokenizer, folder, name="a", workers=1)
    assert second.fingerprint != first.fingerprint
    assert Dataset.open(folder).manifest == second


def test_a_fault_in_a_worker_is_told_as_it_is(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n" * 2_000 + b"\xff\n" + b"fine\n" * 2_000)
    with pytest.raises(SourceError, match=r"a\.txt:2001 is not UTF-8"):
        build_records(
            stage(path, Rows(), shards=4), tokenizer, tmp_path / "set", name="a", workers=2
        )


def _die(task, count):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_no_hang(tmp_path, tokenizer, monkeypatch):
    path = write_corpus(tmp_path / "a.txt")
    monkeypatch.setattr(build, "build_shard", _die)
    with pytest.raises(RecordsError, match="a worker process was killed.*fewer workers"):
        build_records(
            stage(path, Rows(), shards=4), tokenizer, tmp_path / "set", name="a", workers=2
        )


PROGRAM = """
import sys
from pd_jax.config import Corpus, RecordsStage, Source
from pd_jax.data import workers as pool
from pd_jax.data.build import build_records
from pd_jax.data.tokenizers import load_tokenizer
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
    root = pathlib.Path(build.__file__).parents[2]
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


# ---- leaving text out --------------------------------------------------------------------------


def numbered(number):
    """A text for every number up to 40,000, of words of the vocabulary."""
    return f"{WORDS[number % 200]} {WORDS[number // 200]}"


def test_duplicates_are_left_out_wherever_they_are(tmp_path, tokenizer):
    chance = np.random.default_rng(0)
    numbers = chance.integers(0, 700, 3_000).tolist()
    for name, part in (("a", numbers[:1_000]), ("b", numbers[1_000:])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{numbered(n)}\n" for n in part))
    expected = [tokenizer.encode([numbered(n)])[0].tolist() for n in dict.fromkeys(numbers)]
    prints = []
    for workers in (1, 3):
        folder = tmp_path / f"set{workers}"
        made = stage(tmp_path / "?.txt", Rows(), shards=7, deduplicate=True)
        manifest = build_records(made, tokenizer, folder, name="a", workers=workers)
        ids, _ = rows_of(folder)
        assert [row[1:-1] for row in ids] == expected  # the first of each, in order
        left_out = {"duplicates": 3_000 - len(expected), "excluded": 0}
        assert manifest.arguments["left_out"] == left_out
        prints.append(manifest.fingerprint)
        again = build_records(made, tokenizer, folder, name="a", workers=workers)
        assert again == manifest
    assert prints[0] == prints[1]


def test_a_pair_is_a_duplicate_only_as_a_whole(tmp_path, tokenizer):
    content = "one\ttwo\na\tb\na\tc\na b\t\na\tb\n"
    columns = {"text": "one", "pair": "two"}
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, deduplicate=True)
    ids, _ = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, SEP, B, SEP], [CLS, A, SEP, C, SEP], [CLS, A, B, SEP, SEP]]


def test_whole_documents_are_duplicates(tmp_path, tokenizer):
    content = "a b\nc d\n\ne f\n\na b\nc d\n\na b\n"
    build_rows(tmp_path, tokenizer, content, Corpus(), name="a.txt", deduplicate=True)
    ids, _ = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, B, C, D, SEP], [CLS, E, F, SEP], [CLS, A, B, SEP]]


def test_rows_of_evaluation_sets_are_left_out_however_they_are_spelt(tmp_path, tokenizer):
    evaluation = tmp_path / "dev.tsv"
    evaluation.write_text("text\tlabel\nA b, c .\t0\n...\t1\n")
    exclude = (Source(path=str(evaluation)),)
    content = "a b c\nd\na  B c!\n...\nc b a\n"
    manifest = build_rows(tmp_path, tokenizer, content, Rows(), name="a.txt", exclude=exclude)
    ids, _ = rows_of(tmp_path / "set")
    # Three dots name nothing: a text without letters is never taken for another.
    assert ids == [[CLS, D, SEP], [CLS, DOT, DOT, DOT, SEP], [CLS, C, B, A, SEP]]
    assert manifest.arguments["left_out"] == {"duplicates": 0, "excluded": 2}
    evaluation.write_text("text\tlabel\nd\t0\n")
    second = build_rows(tmp_path, tokenizer, content, Rows(), name="a.txt", exclude=exclude)
    assert second.rows == 4, "another evaluation set leaves out other rows"


def test_sentences_of_evaluation_sets_are_left_out_of_documents(tmp_path, tokenizer):
    evaluation = tmp_path / "dev.tsv"
    evaluation.write_text("one\ttwo\na b\tc d\n")
    exclude = (Source(path=str(evaluation), text="one", pair="two"),)
    content = "a b\ne f\nc d\n\nc d\n"
    build_rows(tmp_path, tokenizer, content, Corpus(), name="a.txt", exclude=exclude)
    assert rows_of(tmp_path / "set")[0] == [[CLS, E, F, SEP]]


def test_pairs_of_evaluation_sets_are_left_out_as_pairs(tmp_path, tokenizer):
    content = "one\ttwo\na b\tc d\na b\tc\na\tc d\n"
    columns = {"text": "one", "pair": "two"}
    (tmp_path / "dev.tsv").write_text("one\ttwo\nA b\tC d.\n")
    exclude = (Source(path=str(tmp_path / "dev.tsv"), **columns),)
    build_rows(tmp_path, tokenizer, content, Rows(), columns=columns, exclude=exclude)
    ids, _ = rows_of(tmp_path / "set")
    assert ids == [[CLS, A, B, SEP, C, SEP], [CLS, A, SEP, C, D, SEP]]


def test_a_dataset_of_which_nothing_is_left_is_refused(tmp_path, tokenizer):
    (tmp_path / "dev.txt").write_text("a\n")
    exclude = (Source(path=str(tmp_path / "dev.txt")),)
    with pytest.raises(SourceError, match="everything in it was left out.*'excluded': 2"):
        build_rows(tmp_path, tokenizer, "a\nA\n", Rows(), name="a.txt", exclude=exclude)


# ---- shares ------------------------------------------------------------------------------------


@pytest.mark.parametrize("deduplicate", [False, True])
def test_shares_made_apart_are_the_whole(tmp_path, tokenizer, deduplicate):
    path = write_corpus(tmp_path / "a.txt", documents=200)
    made = stage(path, Rows(), shards=5, deduplicate=deduplicate)
    whole = build_records(made, tokenizer, tmp_path / "whole", name="a", workers=1)
    run = functools.partial(pool.run, workers=1)
    results = [
        build.build_share(
            made, tokenizer, tmp_path / "set", name="a", run=run, share=build.Share(index, 3)
        )
        for index in (2, 0, 1)
    ]
    assert results == [None, None, whole]
    assert Dataset.open(tmp_path / "set").manifest == whole


# ---- memory ------------------------------------------------------------------------------------


WORKER = """
import sys
from pd_jax.data import workers

def heavy(task, count):
    import resource
    found = {"jax", "flax", "torch", "grain"} & set(sys.modules)
    return sorted(found), "program" in sys.modules["__main__"].__dict__
"""


def test_workers_do_not_import_the_program_that_starts_them(tmp_path):
    (tmp_path / "jobs.py").write_text(WORKER)
    (tmp_path / "program.py").write_text(
        "import jax, jobs\nfrom pd_jax.data import workers\nprogram = True\n"
        "for _, result in workers.run(jobs.heavy, [1, 2], workers=2, report=lambda done: None):\n"
        "    print(result)\n"
    )
    root = pathlib.Path(build.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
    )  # fmt: skip
    # Without the guard of a main module, importing the program again would start it again.
    assert done.stdout == "([], False)\n" * 2, done.stderr


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
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(build.__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) < 300 * 1024  # kB, the most memory it ever had
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.manifest.tokens - 2 * len(dataset) == count
