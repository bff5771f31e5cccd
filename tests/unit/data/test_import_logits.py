"""Outputs of foreign teachers: joined by text or id, in every format, the first bad row named."""

import gzip
import json

import numpy as np
import pyarrow
import pytest
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from pyarrow import parquet

from pd_jax.data.logits import answers, probabilities
from pd_jax.data.logits.store import LogitStore
from pd_jax.data.logits.teachers import Teachers
from pd_jax.data.records.dataset import Dataset
from pd_jax.errors import ConfigError, LogitsError, SourceError
from pd_jax.tools import import_logits
from tests import tiny

TEXTS = [f"w{n} w{n + 1} w{2 * n}" for n in range(12)]
LOGITS = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
ORDER = np.random.default_rng(1).permutation(12)


def built(tmp_path, *, pairs=False) -> Dataset:
    texts = [(text, text.upper()) if pairs else (text,) for text in TEXTS]
    return tiny.text_dataset(tmp_path / "set", texts)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return built(tmp_path)


def jsonl(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(values=LOGITS, name="scores", order=ORDER) -> list[dict]:
    return [{"text": f" {TEXTS[n]}", name: values[n].tolist()} for n in order]


def run(tmp_path, *arguments: str, output="store") -> str:
    words = ["--records", str(tmp_path / "set"), "--output", str(tmp_path / output), *arguments]
    assert import_logits.main(words) == 0
    return str(tmp_path / output)


def stored(folder, dataset) -> np.ndarray:
    rows = np.arange(len(dataset))
    ids = dataset.gather(rows).example_ids
    return LogitStore.open(folder).check(dataset).read(rows, ids)["logits"]


LABELLED = ("--labels", "few,many")
LISTED = (*LABELLED, "--values", "scores")


def test_every_format_gives_the_same_store(dataset, tmp_path, capsys):
    rows = rows_of()
    flat = [
        {"text": row["text"], "few": row["scores"][0], "many": row["scores"][1]} for row in rows
    ]
    table = "text,few,many\n" + "".join('"{text}",{few!r},{many!r}\n'.format(**r) for r in flat)
    (tmp_path / "a.csv").write_text(table)
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as stream:
        stream.write(table.replace(",", "\t").replace('"', ""))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    named = [{"text": row["text"], "by": {"many": row["many"], "few": row["few"]}} for row in flat]
    parquet.write_table(pyarrow.Table.from_pylist(named), tmp_path / "b.parquet")
    answers = [  # as transformers' pipelines give them, the best label first
        {"text": row["text"], "by": [{"label": k, "score": row[k]} for k in ("many", "few")]}
        for row in flat
    ]
    ids = dataset.gather(np.arange(12)).example_ids
    np.save(tmp_path / "a.npy", LOGITS[ORDER])
    (tmp_path / "ids.txt").write_text("".join(f"{ids[n].tobytes().hex()}\n" for n in ORDER))
    ways = {
        "jsonl": ("--input", jsonl(tmp_path / "a.jsonl", rows), *LISTED),
        "object": ("--input", jsonl(tmp_path / "b.jsonl", named), *LABELLED, "--values", "by"),
        "answers": ("--input", jsonl(tmp_path / "c.jsonl", answers), *LABELLED, "--values", "by"),
        "csv": ("--input", str(tmp_path / "a.csv"), *LABELLED),
        "tsv": ("--input", str(tmp_path / "*.tsv.gz"), *LABELLED),
        "parquet": ("--input", str(tmp_path / "a.parquet"), *LISTED),
        "struct": ("--input", str(tmp_path / "b.parquet"), *LABELLED, "--values", "by"),
        "npy": (
            *("--input", str(tmp_path / "ids.txt"), "--id-column", "id", *LABELLED),
            *("--array", str(tmp_path / "a.npy")),
        ),
    }
    for name, arguments in ways.items():
        np.testing.assert_array_equal(
            stored(run(tmp_path, *arguments, output=name), dataset), LOGITS
        )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("logits of 12 of 12 rows x 2 outputs, from 12 rows with 0 repet")


def test_an_array_in_a_bucket_is_read(dataset, tmp_path, monkeypatch):
    class Bucket(LocalFileSystem):
        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).replace("gs://bucket", str(tmp_path)))

    bucket = Bucket(skip_instance_cache=True)
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: bucket)
    np.save(tmp_path / "a.npy", LOGITS)
    (tmp_path / "b.npy").write_bytes(b"nothing")
    form = answers.Form("classification", ("a", "b"))
    np.testing.assert_array_equal(answers._load("gs://bucket/a.npy", form), LOGITS)
    with pytest.raises(LogitsError, match=r"gs://bucket/b.npy is not an .npy file"):
        answers._load("gs://bucket/b.npy", form)


def test_pairs_are_joined_by_both_texts(tmp_path):
    dataset = built(tmp_path, pairs=True)
    rows = [{"one": TEXTS[n], "two": TEXTS[n].upper(), "s": LOGITS[n].tolist()} for n in ORDER]
    arguments = ("--input", jsonl(tmp_path / "a.jsonl", rows), *LABELLED, "--values", "s")
    columns = ("--text-column", "one", "--pair-column", "two")
    np.testing.assert_array_equal(stored(run(tmp_path, *arguments, *columns), dataset), LOGITS)
    with pytest.raises(LogitsError, match="no row of .*set has an answer; join by"):
        run(tmp_path, *arguments, "--text-column", "one", output="other")


def test_another_column_to_join_by_is_another_store(dataset, tmp_path):
    other = TEXTS[1:] + ["elsewhere"]
    rows = [
        {"a": TEXTS[n], "b": other[n], "scores": LOGITS[n].tolist()} for n in range(11)
    ]  # of both, one row has no answer
    given = ("--input", jsonl(tmp_path / "a.jsonl", rows), *LISTED, "--allow-missing", "1")
    run(tmp_path, *given, "--text-column", "a")
    with pytest.raises(LogitsError, match="has a finished store of another"):
        run(tmp_path, *given, "--text-column", "b")


def test_labels_are_mapped_by_name(dataset, tmp_path):
    swapped = ("--labels", "many,few", "--values", "scores")
    folder = run(tmp_path, "--input", jsonl(tmp_path / "a.jsonl", rows_of()), *swapped)
    assert LogitStore.open(folder).manifest.labels == ("many", "few")
    teachers = Teachers(dataset, [LogitStore.open(folder)], labels=("few", "many"))
    found = teachers.read(np.arange(12), dataset.gather(np.arange(12)).example_ids)
    np.testing.assert_array_equal(found["teacher_logits"], LOGITS[:, ::-1])


def test_probabilities_by_hand(dataset, tmp_path):
    outputs = np.tile([0.25, 0.75], (12, 1))
    outputs[3] = [0.0, 1.0]
    outputs[4] = [0.2502, 0.7503]  # as rounded output would have it: divided by 1.0005
    rows = rows_of(outputs, "p")
    path, kind = jsonl(tmp_path / "a.jsonl", rows), ("--kind", "probabilities", "--values", "p")
    found = stored(run(tmp_path, "--input", path, *LABELLED, *kind), dataset)
    np.testing.assert_allclose(np.exp(found[0]), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(np.exp(found[3]), [1e-7, 1.0], rtol=1e-5)
    np.testing.assert_allclose(np.exp(found[4]).sum(), 1.0, rtol=1e-6)
    several = ("--task", "multilabel", *LABELLED, *kind)
    found = stored(run(tmp_path, "--input", path, *several, output="several"), dataset)
    np.testing.assert_allclose(found[0], [np.log(1 / 3), np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(found[3], [np.log(1e-7), -np.log(1e-7)], rtol=1e-5)


def test_probabilities_without_their_kind_are_not_taken_for_logits(dataset, tmp_path):
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    path = jsonl(tmp_path / "a.jsonl", rows_of(shares))
    with pytest.raises(LogitsError, match=r"a.jsonl adds up to 1, .*; give --kind probabilities"):
        run(tmp_path, "--input", path, *LISTED)


def test_probabilities_of_several_labels_are_not_taken_for_logits(dataset, tmp_path):
    several = (*LISTED, "--task", "multilabel")
    shares = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    path = jsonl(tmp_path / "a.jsonl", rows_of(shares))
    with pytest.raises(LogitsError, match="between 0 and 1, .*; give --kind probabilities"):
        run(tmp_path, "--input", path, *several)
    made = run(tmp_path, "--input", path, *several, "--kind=probabilities")
    np.testing.assert_allclose(stored(made, dataset), LOGITS, rtol=1e-4, atol=1e-5)


def test_labels_of_a_language_model_get_the_certainty_they_are_given(dataset, tmp_path):
    rows = [{"text": text, "answer": ("few", "many")[n % 2]} for n, text in enumerate(TEXTS)]
    kind = ("--kind", "labels", "--values", "answer", "--certainty", "0.9")
    path = jsonl(tmp_path / "a.jsonl", rows)
    found = stored(run(tmp_path, "--input", path, *LABELLED, *kind), dataset)
    np.testing.assert_allclose(np.exp(found[:2]), [[0.9, 0.1], [0.1, 0.9]], rtol=1e-5)
    rows[5]["answer"] = "lots"
    with pytest.raises(LogitsError, match=r"a.jsonl:6: label 'lots' is not one of 'few', 'many'"):
        run(tmp_path, "--input", jsonl(tmp_path / "a.jsonl", rows), *LABELLED, *kind)


def test_a_regression_has_one_value(dataset, tmp_path):
    rows = [{"text": text, "value": n / 4} for n, text in enumerate(TEXTS)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    found = stored(
        run(tmp_path, "--input", path, "--task", "regression", "--values", "value"), dataset
    )
    np.testing.assert_array_equal(found[:, 0], np.arange(12) / 4)


def test_repetitions_count_once_and_contradictions_as_missing(dataset, tmp_path, capsys):
    rows = rows_of(order=range(12))
    contradiction = {**rows[3], "scores": [9.0, 9.0]}
    unknown = {"text": "elsewhere", "scores": [0.0, 0.0]}
    rows = [*rows[:5], *rows[7:], rows[0], rows[0], contradiction, unknown]
    arguments = ("--input", jsonl(tmp_path / "a.jsonl", rows), *LISTED)
    message = (
        r"^3 of 12 rows have no answer \(1 disputed: .*a.jsonl:13 contradicts .*a.jsonl:4\), the"
        r" first of them .*set-0000\d-of-00003.tfrecord row \d; .* --allow-missing 3$"
    )
    with pytest.raises(LogitsError, match=message):
        run(tmp_path, *arguments, "--allow-missing", "2")
    assert not (tmp_path / "store" / "manifest.json").exists()
    capsys.readouterr()
    folder = run(tmp_path, *arguments, "--allow-missing", "3")
    assert "logits of 9 of 12 rows x 2 outputs, from 14 rows with 2 rep" in capsys.readouterr().out
    assert LogitStore.open(folder).manifest.missing == 3
    expected = LOGITS.copy()
    expected[[3, 5, 6]] = np.nan
    np.testing.assert_array_equal(stored(folder, dataset), expected)


def test_the_same_text_read_in_another_batch_is_no_contradiction(dataset, tmp_path, capsys):
    again = [{**row, "scores": [x + 1e-6 for x in row["scores"]]} for row in rows_of()]
    path = jsonl(tmp_path / "a.jsonl", [*rows_of(), *again])
    np.testing.assert_array_equal(stored(run(tmp_path, "--input", path, *LISTED), dataset), LOGITS)
    assert "from 24 rows with 12 rep" in capsys.readouterr().out
    half = [{**row, "scores": [4.0, 0.02 * n]} for n, row in enumerate(rows_of())]
    again = [{**row, "scores": [x + 1 / 64 for x in row["scores"]]} for row in half]
    path = jsonl(tmp_path / "half.jsonl", [*half, *again])
    assert stored(run(tmp_path, "--input", path, *LISTED, output="half"), dataset)[0, 0] == 4.0
    certain = [{**row, "scores": [1e-4, 0.9999]} for row in rows_of()]
    again = [{**row, "scores": [2e-4, 0.9998]} for row in rows_of()]
    path = jsonl(tmp_path / "p.jsonl", [*certain, *again])
    run(tmp_path, "--input", path, *LISTED, "--kind=probabilities", output="probabilities")
    other = {**certain[0], "scores": [0.01, 0.99]}
    path = jsonl(tmp_path / "q.jsonl", [*certain, other])
    with pytest.raises(LogitsError, match=r"1 of 12 rows have no answer \(1 disputed: "):
        run(tmp_path, "--input", path, *LISTED, "--kind=probabilities", output="doubtful")
    small = [{"text": text, "value": n * 1e-4} for n, text in enumerate(TEXTS)]
    other = {**small[3], "value": small[3]["value"] + 1e-5}  # much, among values so small
    path = jsonl(tmp_path / "b.jsonl", [*small, other])
    with pytest.raises(LogitsError, match=r"1 of 12 rows have no answer \(1 disputed: "):
        run(tmp_path, "--input", path, "--task=regression", "--values=value", output="small")


BAD = {
    "a bad line": ("text", r"a.jsonl:4 is not JSON"),
    "NaN": ({"scores": [float("nan"), 0.0]}, r"a.jsonl:4 has a number that is not finite \(nan, 0"),
    "too many": ({"scores": [1.0, 2.0, 3.0]}, r"a.jsonl:4 gives 3 numbers in 'scores' for 2 out"),
    "words": ({"scores": ["much", 0.0]}, r"a.jsonl:4 has 'much' in 'scores', which is not a num"),
    "a boolean": ({"scores": [True, 0.0]}, r"a.jsonl:4 has True in 'scores', which is not a num"),
    "no scores": (
        {"score": 1},
        r"a.jsonl:4 has no column 'scores'; its columns are 'text', 'score': ",
    ),
    "no text": ({"text": None}, r"a.jsonl:4 has null in column 'text'"),
    "other labels": (
        {"scores": {"few": 1.0, "lots": 0.0}},
        r"a.jsonl:4 has labels 'few', 'lots', not 'few', 'many'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_the_first_bad_row_is_named(dataset, tmp_path, name):
    change, message = BAD[name]
    rows = rows_of()
    lines = [json.dumps(row) for row in rows]
    for at in (3, 7):
        row = {
            "text": TEXTS[at],
            **({"scores": rows[at]["scores"]} if "score" not in change else {}),
        }
        lines[at] = "{" if change == "text" else json.dumps({**row, **change})
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises((LogitsError, SourceError), match=message):
        run(tmp_path, "--input", str(tmp_path / "a.jsonl"), *LISTED)
    assert not (tmp_path / "store").exists()


def test_probabilities_that_do_not_sum_to_one_and_those_that_are_none(dataset, tmp_path):
    kind = (*LABELLED, "--kind", "probabilities", "--values", "p")
    for values, message in (
        ([0.5, 0.6], r"a.jsonl:5 has probabilities that do not sum to 1 \(0.5, 0.6\); .* --kind"),
        ([-0.1, 1.1], r"a.jsonl:5 has a probability below 0 or above 1 \(-0.1, 1.1\)"),
    ):
        rows = rows_of(np.tile([0.5, 0.5], (12, 1)), "p")
        rows[4]["p"] = values
        with pytest.raises(LogitsError, match=message):
            run(tmp_path, "--input", jsonl(tmp_path / "a.jsonl", rows), *kind)


def test_arrays_and_ids_that_do_not_fit(dataset, tmp_path):
    np.save(tmp_path / "a.npy", LOGITS[:11])
    (tmp_path / "keys.txt").write_text("\n".join(TEXTS) + "\n")
    arguments = ("--input", str(tmp_path / "keys.txt"), *LABELLED, "--array")
    with pytest.raises(LogitsError, match=r"a.npy has 11 rows, but .*keys.txt.* names 12"):
        run(tmp_path, *arguments, str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", LOGITS[:, :1])
    with pytest.raises(LogitsError, match=r"b.npy contains float32 \(12, 1\), not numbers \[rows"):
        run(tmp_path, *arguments, str(tmp_path / "b.npy"))
    (tmp_path / "c.npy").write_bytes(b"nothing")
    with pytest.raises(LogitsError, match=r"c.npy is not an .npy file"):
        run(tmp_path, *arguments, str(tmp_path / "c.npy"))
    np.save(tmp_path / "a.npy", LOGITS)
    with pytest.raises(LogitsError, match=r"keys.txt:1: 'w0 w1 w0' is not an example id; give"):
        run(tmp_path, *arguments, str(tmp_path / "a.npy"), "--id-column", "id")
    with pytest.raises(LogitsError, match=r"keys.txt:1: plain text and TFDS have no columns"):
        run(tmp_path, *arguments[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the dataset has no labels; name those"),
        (("--labels", "a,a"), "names a label twice"),
        (("--labels", "a,b", "--columns", "x"), "names 1 columns for 2 outputs"),
        (("--labels", "a,b", "--columns", "x,y", "--values", "z"), "give either --values"),
        (("--labels", "a,b", "--kind", "labels", "--values", "z"), "needs --certainty"),
        (("--labels", "a,b", "--array", "x.npy", "--values", "z"), "--array has the numbers"),
        (("--labels", "a,b", "--certainty", "0.9"), "no other kind takes it"),
        (("--task", "regression"), "a regression needs --values"),
        (("--task", "regression", "--kind", "probabilities"), "has neither probabilities nor"),
    ],
)
def test_arguments_that_contradict_each_other(dataset, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "--input", "none.jsonl", *arguments)


def test_a_labelled_set_wants_its_own_labels(tmp_path):
    dataset = tiny.dataset(tmp_path / "set", rows=4)
    with pytest.raises(ConfigError, match="has labels few, many, not yes, no"):
        run(tmp_path, "--input", "none.jsonl", "--labels", "yes,no", "--values", "x")
    with pytest.raises(ConfigError, match="is for task classification; leave --task=regression"):
        run(tmp_path, "--input", "none.jsonl", "--task", "regression", "--values", "x")
    assert len(dataset) == 4


@pytest.mark.parametrize("scale", [1, 100])
def test_rounded_probabilities_and_percentages_are_not_taken_for_logits(dataset, tmp_path, scale):
    outputs = np.tile([0.33, 0.66], (12, 1))  # both rounded down, so that they miss 0.01
    outputs[5] = [1.0, 0.01]
    path = jsonl(tmp_path / "a.jsonl", rows_of(outputs * scale))
    how = {
        1: "adds up to 1, as probabilities .*; give --kind probabilities$",
        100: "adds up to 100, as probabilities .*; divide by 100 and give --kind probabilities$",
    }
    with pytest.raises(LogitsError, match=rf"every row of .*a\.jsonl {how[scale]}"):
        run(tmp_path, "--input", path, *LISTED)
    if scale == 1:
        kind = "--kind=probabilities"
        found = np.exp(stored(run(tmp_path, "--input", path, *LISTED, kind), dataset))
        np.testing.assert_allclose(found[0], [0.33 / 0.99, 0.66 / 0.99], rtol=1e-6)
        np.testing.assert_allclose(found[5], [1 / 1.01, 0.01 / 1.01], rtol=1e-5)


def test_a_store_takes_no_datasets_place(dataset, tmp_path):
    path = jsonl(tmp_path / "a.jsonl", rows_of(LOGITS))
    with pytest.raises(ConfigError, match="^--pair-column has no effect with --id-column; leave"):
        run(tmp_path, "--input", path, *LISTED, "--id-column", "id", "--pair-column", "pair")
    with pytest.raises(ConfigError, match="is the dataset that is read; name another folder"):
        run(tmp_path, "--input", path, *LISTED, "--output", str(dataset.folder))


def test_logits_of_one_sign_are_logits(dataset, tmp_path):
    values = np.abs(LOGITS) + 1
    path = jsonl(tmp_path / "a.jsonl", rows_of(values))
    found = stored(run(tmp_path, "--input", path, *LISTED), dataset)
    np.testing.assert_array_equal(found, values)


def test_many_classes_may_be_rounded_more_but_not_without_limit():
    thirty, many = np.full((1, 30), 0.03), np.full((1, 200), 0.01)  # sums of 0.9 and 2
    assert probabilities.add_up(thirty).all() and not probabilities.add_up(many).any()
    assert probabilities.add_up(np.array([[0.13, 0.88]])).all()  # of 0.125 and 0.875
    assert not probabilities.add_up(np.array([[0.13, 0.89]])).any()  # more than rounding adds


@pytest.mark.parametrize(
    "given",
    [
        lambda value: [{"label": "LABEL_0", "score": value}],
        lambda value: {"label": "LABEL_0", "score": value},
        lambda value: {"stars": value},
    ],
)
def test_a_regressions_value_may_have_any_name(dataset, tmp_path, given):
    rows = [{"text": text, "out": given(n / 4)} for n, text in enumerate(TEXTS)]
    regression = ("--task", "regression", "--values", "out")
    path = jsonl(tmp_path / "a.jsonl", rows)
    found = stored(run(tmp_path, "--input", path, *regression), dataset)
    np.testing.assert_array_equal(found[:, 0], np.arange(12) / 4)
    rows[2]["out"] = {"stars": 1, "moons": 2}
    path = jsonl(tmp_path / "b.jsonl", rows)
    message = r"b\.jsonl:3 gives 2 numbers in 'out' for 1 outputs; correct the row$"
    with pytest.raises(LogitsError, match=message):
        run(tmp_path, "--input", path, *regression, output="other")


def test_a_column_of_numbers_that_occurs_twice_is_refused(dataset, tmp_path):
    (tmp_path / "a.csv").write_text("text,few,many,few\n" + "".join(f"{t},1,2,3\n" for t in TEXTS))
    with pytest.raises(SourceError, match=r"a\.csv has 2 columns 'few'; give each a name of its"):
        run(tmp_path, "--input", str(tmp_path / "a.csv"), *LABELLED)
