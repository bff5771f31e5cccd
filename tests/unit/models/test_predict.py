"""tools.predict: every text once, in order, with the numbers the model gives it by itself."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import jax
import numpy as np
import pytest

from pd_jax.data.tokenizers.tokenizer import load_tokenizer
from pd_jax.errors import ConfigError, SourceError, WeightsError
from pd_jax.models.heads import PretrainingModel, TaskModel
from pd_jax.models.sizes import BertConfig
from pd_jax.models.weights import hf
from pd_jax.tools import predict
from tests import tiny

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
CONFIG = BertConfig(
    vocab_size=len(PIECES), layers=2, hidden=16, heads=2, intermediate=24, positions=40
)
IDS = np.zeros((1, 4), np.int32)
ROOT = pathlib.Path(__file__).resolve().parents[3]


def make_folder(
    folder: pathlib.Path,
    outputs: int,
    task: str | None,
    labels: tuple[str, ...] = (),
    config: BertConfig = CONFIG,
) -> pathlib.Path:
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(TaskModel(config, outputs).init, jax.random.key(0), IDS, IDS, IDS)
    made = jax.tree.map(
        lambda leaf: 0.2 * random.standard_normal(leaf.shape, np.float32), shapes["params"]
    )
    vocabulary = folder.parent / "vocab.txt"
    vocabulary.write_text("".join(f"{piece}\n" for piece in PIECES))
    tokenizer = load_tokenizer(vocabulary)
    hf.save(folder, made, config, labels=labels, task=task, add=tokenizer.save)
    return folder


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    return make_folder(tmp_path / "model", 3, "classification", ("no", "perhaps", "yes"))


def alone(folder: pathlib.Path, text: str, pair: str | None = None) -> np.ndarray:
    """Returns the logits of one text, framed by hand, without padding and outside of the tool."""
    saved, tokenizer = hf.load(folder), load_tokenizer(folder)
    first = [tokenizer.cls_id, *tokenizer.encode([text])[0], tokenizer.sep_id]
    second = [] if pair is None else [*tokenizer.encode([pair])[0], tokenizer.sep_id]
    ids = np.array([first + second])
    segments = np.array([[0] * len(first) + [1] * len(second)])
    outputs = saved.params["classifier"]["bias"].shape[0]
    module = TaskModel(saved.config, outputs)
    return np.asarray(module.apply({"params": saved.params}, ids, segments, ids * 0 + 1))[0]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def run(*arguments: Any) -> None:
    assert predict.main([str(argument) for argument in arguments]) == 0


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_texts(count: int) -> list[str]:
    """Returns texts of 1 to 37 tokens, short and long ones mixed."""
    random = np.random.default_rng(0)
    return [
        " ".join(LETTERS[i] for i in random.integers(0, 26, random.integers(1, 38)))
        for _ in range(count)
    ]


def test_texts_keep_their_order_and_their_numbers(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Five windows of 16 batches of 8, the last of each not full: sorted inside, not outside."""
    texts = make_texts(520)
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    run("--model", model, "--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl",
        "--logits", "--batch", 8)  # fmt: skip
    lines = read(tmp_path / "out.jsonl")
    assert [line["line"] for line in lines] == list(range(1, 521))
    for number in (0, 127, 128, 519):
        expected, line = alone(model, texts[number]), lines[number]
        np.testing.assert_allclose(line["logits"], expected, atol=1e-5)
        shares = softmax(expected)
        assert list(line["probabilities"]) == ["no", "perhaps", "yes"]
        np.testing.assert_allclose(list(line["probabilities"].values()), shares, atol=1e-5)
        assert line["label"] == ("no", "perhaps", "yes")[int(np.argmax(expected))]
    assert len({tuple(line["logits"]) for line in lines}) > 500
    assert not list(tmp_path.glob(".*"))


def test_pairs_columns_and_tsv(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.tsv").write_text("id\tone\ttwo\n7\ta b\tc\n\n8\td\te f g\n")
    run("--model", model, "--input", tmp_path / "in.tsv", "--text", "one", "--pair", "two",
        "--format", "tsv", "--output", tmp_path / "out.tsv", "--logits")  # fmt: skip
    header, *rows = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert header == ["line", "label", "p(no)", "p(perhaps)", "p(yes)", "logit(no)",
                      "logit(perhaps)", "logit(yes)"]  # fmt: skip
    assert [row[0] for row in rows] == ["2", "4"]
    for row, (one, two) in zip(rows, (("a b", "c"), ("d", "e f g")), strict=True):
        expected = alone(model, one, two)
        np.testing.assert_allclose([float(cell) for cell in row[5:]], expected, atol=1e-5)
        np.testing.assert_allclose([float(cell) for cell in row[2:5]], softmax(expected), atol=1e-5)


def test_pairs_are_not_read_by_a_model_of_one_segment(tmp_path: pathlib.Path) -> None:
    single = dataclasses.replace(CONFIG, token_types=1)
    folder = make_folder(tmp_path / "single", 2, "classification", config=single)
    (tmp_path / "in.tsv").write_text("text\ttwo\na b\tc\n")
    arguments = ["--model", folder, "--input", tmp_path / "in.tsv"]
    run(*arguments, "--output", tmp_path / "out.jsonl")
    np.testing.assert_allclose(
        list(read(tmp_path / "out.jsonl")[0]["probabilities"].values()),
        softmax(alone(folder, "a b")),
        atol=1e-5,
    )
    with pytest.raises(ConfigError, match="type_vocab_size=1, .* or leave the second text out"):
        run(*arguments, "--pair", "two")


def test_several_labels_and_values(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a b c"}\n{"text": "x"}\n')
    several = make_folder(tmp_path / "several", 3, "multilabel", ("p", "q", "r"))
    run("--model", several, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "s.jsonl")
    for text, line in zip(("a b c", "x"), read(tmp_path / "s.jsonl"), strict=True):
        shares = 1 / (1 + np.exp(-alone(several, text)))
        np.testing.assert_allclose(list(line["probabilities"].values()), shares, atol=1e-5)
        assert line["label"] == list(itertools.compress("pqr", shares > 0.5))
    value = make_folder(tmp_path / "value", 1, "regression")
    for form, name in (("jsonl", "v.jsonl"), ("tsv", "v.tsv")):
        run("--model", value, "--input", tmp_path / "in.jsonl", "--output", tmp_path / name,
            "--format", form)  # fmt: skip
    expected = [alone(value, text)[0] for text in ("a b c", "x")]
    found = [line["value"] for line in read(tmp_path / "v.jsonl")]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    header, *rows = (tmp_path / "v.tsv").read_text().splitlines()
    assert header == "line\tvalue"
    np.testing.assert_allclose([float(row.split("\t")[1]) for row in rows], expected, atol=1e-5)


def test_logits_beyond_what_an_exponential_holds_have_probabilities() -> None:
    model = hf.SavedModel(CONFIG, {}, ("p", "q"), "multilabel", "0" * 32)
    with np.errstate(over="raise"):
        assert predict._probabilities(model, np.array([[-1000.0, 1000.0]])) == [[0.0, 1.0]]


def test_long_texts_are_cut_and_keep_their_end(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.txt").write_text("a " * 500 + "\n")
    for limit, kept in ((None, 38), (12, 10)):
        run("--model", model, "--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl",
            "--logits", *(["--max-length", limit] if limit else []))  # fmt: skip
        (line,) = read(tmp_path / "out.jsonl")
        np.testing.assert_allclose(line["logits"], alone(model, "a " * kept), atol=1e-5)


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_standard_input_to_standard_output(model: pathlib.Path, form: str) -> None:
    """A real process: what goes to stdout is the table alone, all else goes to stderr."""
    content = "a b\n\nc d e\n" if form == "text" else '{"s": "a b"}\n\n{"s": "c d e"}\n'
    command = [sys.executable, "-m", "pd_jax.tools.predict", "--model", str(model)]
    command += ["--text", "s", "--input-format", form, "--logits"]
    done = subprocess.run(
        command,
        input=content,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["line"] for line in lines] == [1, 3]
    for text, line in zip(("a b", "c d e"), lines, strict=True):
        np.testing.assert_allclose(line["logits"], alone(model, text), atol=1e-5)
    assert done.stderr.splitlines()[-1] == "labelled 2 texts: standard output"


def test_an_empty_input_gives_an_empty_output(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.txt").write_text("\n")
    run("--model", model, "--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_faults_are_named_and_leave_no_output(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = ("--output", str(tmp_path / "out.jsonl"))
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"other": "b"}\n')
    with pytest.raises(SourceError, match=r"in\.jsonl:2"):
        predict.main(["--model", str(model), "--input", str(tmp_path / "in.jsonl"), *output])
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in.jsonl", "model", "vocab.txt"]
    made = tiny.weights(PretrainingModel(CONFIG).init, IDS, IDS, IDS, IDS)["params"]
    hf.save(tmp_path / "pre", made, CONFIG, add=load_tokenizer(model).save)
    with pytest.raises(ConfigError, match="pre has no classifier"):
        predict.main(["--model", str(tmp_path / "pre"), *output])
    (model / "tokenizer.json").unlink()
    with (model / "vocab.txt").open("a") as stream:
        stream.write("one\nmore\n")
    with pytest.raises(WeightsError, match="tokenizer with 59 entries and a model with 57"):
        predict.main(["--model", str(model), *output])


@pytest.mark.parametrize("argument", [("--batch", "0"), ("--max-length", "2"), ("--batch", "x")])
def test_numbers_without_sense_are_refused(
    argument: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        predict.main(["--model", "m", *argument])
    assert ended.value.code == 2
    assert f"{argument[0]}: {argument[1]!r} is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["in.jsonl", "*.jsonl", "elsewhere/link.jsonl"])
def test_an_input_is_not_overwritten(tmp_path: pathlib.Path, given: str) -> None:
    content = '{"text": "a b"}\n'
    (tmp_path / "in.jsonl").write_text(content)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.jsonl").symlink_to(tmp_path / "in.jsonl")
    arguments = ["--model", "none", "--input", str(tmp_path / given)]
    with pytest.raises(ConfigError, match="in.jsonl is a file that is read; name another one"):
        predict.main([*arguments, "--output", str(tmp_path / "in.jsonl")])
    assert (tmp_path / "in.jsonl").read_text() == content
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="config.json is in none, which is read; name another"):
        with contextlib.chdir(tmp_path):
            predict.main([*arguments, "--output", str(tmp_path / "none" / "config.json")])


def test_several_files_are_told_apart(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name, text in (("a.txt", "a b\n\nc\n"), ("b.txt", "d\n")):
        (tmp_path / name).write_text(text)
    run("--model", model, "--input", tmp_path / "?.txt", "--output", tmp_path / "out.jsonl")
    first, second = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    places = [(line["file"], line["line"]) for line in read(tmp_path / "out.jsonl")]
    assert places == [(first, 1), (first, 3), (second, 1)]
    run("--model", model, "--input", tmp_path / "?.txt", "--output", tmp_path / "out.tsv",
        "--format", "tsv")  # fmt: skip
    header, *rows = (tmp_path / "out.tsv").read_text().splitlines()
    assert header.startswith("file\tline\tlabel\t")
    found = [(file, int(line)) for file, line, *_ in (row.split("\t") for row in rows)]
    assert found == places
    run("--model", model, "--input", first, "--output", tmp_path / "out.jsonl")
    assert "file" not in read(tmp_path / "out.jsonl")[0]


def test_a_file_of_any_ending_has_the_format_that_is_given(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "in.dat").write_text("id\ttext\n1\ta b\n")
    arguments = ("--model", model, "--input", tmp_path / "in.dat", "--output", tmp_path / "out")
    with pytest.raises(SourceError, match="'.dat' is not one of .* or give its format"):
        run(*arguments)
    run(*arguments, "--input-format", "tsv", "--logits")
    (line,) = read(tmp_path / "out")
    assert line["line"] == 2
    np.testing.assert_allclose(line["logits"], alone(model, "a b"), atol=1e-5)


def test_broken_rows_are_left_out_and_counted_if_asked(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "b"}\n')
    arguments = ("--model", model, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out")
    with pytest.raises(SourceError, match="jsonl:2 has null in column 'text'"):
        run(*arguments)
    capsys.readouterr()
    run(*arguments, "--skip-broken-rows")
    assert [line["line"] for line in read(tmp_path / "out")] == [1, 3]
    told = capsys.readouterr().err
    assert "warning: 1 row was skipped, the first because" in told
    assert told.splitlines()[-1] == f"labelled 2 texts: {tmp_path / 'out'}"


def test_a_pipe_is_read_once(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Nothing counts its lines beforehand, and what would be opened twice is refused."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["--model", str(model), "--output", str(tmp_path / "out.jsonl")]
    for given in ([], ["--input", str(pipe)]):
        with pytest.raises(ConfigError, match="--input-format=tsv cannot be read from a pipe or"):
            predict.main([*arguments, *given, "--input-format", "tsv"])
    writer = threading.Thread(target=pipe.write_text, args=("a b\nc\n",), daemon=True)
    writer.start()
    run(*arguments, "--input", pipe, "--input-format", "text")
    writer.join()
    assert [line["line"] for line in read(tmp_path / "out.jsonl")] == [1, 2]


def test_texts_are_cut_where_those_ended_that_the_model_has_learnt_to_read(
    model: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, tokenizer = hf.load(model), load_tokenizer(model)
    short = tmp_path / "short"
    hf.save(short, saved.params, saved.config, labels=saved.labels, longest=12, add=tokenizer.save)
    text = " ".join(LETTERS[:26])
    (tmp_path / "in.txt").write_text(f"{text}\n")
    found = {}
    for name, *more in (("default",), ("cut", "--max-length", 12), ("whole", "--max-length", 28)):
        output = tmp_path / f"{name}.jsonl"
        run("--model", short, "--input", tmp_path / "in.txt", "--output", output, *more)
        told = "short states model_max_length=12, and rows of up to 28 tokens are read here"
        assert capsys.readouterr().err.count(told) == (name == "whole")
        (found[name],) = read(output)
    with pytest.raises(ConfigError, match="short can read 40 tokens, but rows are cut at 41; cut"):
        predict.main(["--model", str(short), "--input", f"{tmp_path}/in.txt", "--max-length=41"])
    assert found["default"] == found["cut"] != found["whole"]
