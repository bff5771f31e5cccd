"""The commands that build datasets and vocabularies: what they make, print, refuse and return."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from pd_jax.data.records import dataset as dataset_lib
from pd_jax.data.tokenizers import tokenizer
from pd_jax.tools import build_records, command, train_tokenizer, verify

_KINDS = ("tfrecord", "index.npy", "shard.json")


@pytest.fixture
def folder(tmp_path):
    sentences = [f"the {word} sentence number {n}." for n in range(200) for word in ("one", "two")]
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in sentences) + "\nend.\n")
    content = "".join(f"{n % 2}\t{line}\n" for n, line in enumerate(sentences))
    (tmp_path / "a.tsv").write_text("label\ttext\n" + content)
    options = ["--input", tmp_path / "a.txt", "--vocab-size", "90", "--output", tmp_path / "vocab"]
    assert run(train_tokenizer, options) == 0
    return tmp_path


def run(tool, arguments):
    return command.run(tool.main, [str(argument) for argument in arguments])


def build(folder, *arguments):
    options = ["--tokenizer", folder / "vocab", "--output", folder / "set", "--workers", 1]
    return run(build_records, [*options, *arguments])


def test_a_vocabulary_is_trained_and_said_so(folder, capsys):
    options = ["--input", folder / "a.txt", "--output", folder / "v2", "--vocab-size", "60"]
    assert run(train_tokenizer, [*options, "--algorithm", "bpe"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("60 pieces, trained in ") and printed.out.endswith(
        f"{folder}/v2\n"
    )
    assert "training 60 pieces (bpe) on at most 1,000,000 sentences" in printed.err
    assert tokenizer.load_tokenizer(folder / "v2").vocab_size == 60


def test_a_vocabulary_takes_no_models_place(folder, capsys):
    options = ["--input", folder / "a.txt", "--vocab-size", "60", "--output"]
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "spiece.model").write_text("a model's")
    assert run(train_tokenizer, [*options, model]) == 2
    told = capsys.readouterr().err
    assert "model has a model (config.json), whose tokenizer would be lost" in told
    assert (model / "spiece.model").exists()
    assert run(train_tokenizer, [*options, folder / "a.txt"]) == 2
    assert "a.txt is a file; name a folder" in capsys.readouterr().err
    for _ in range(2):
        assert run(train_tokenizer, [*options, folder / "v5"]) == 0


def test_much_unknown_text_is_said_so_with_what_helps(folder, capsys):
    (folder / "long.txt").write_text("known words\n" + "unbroken" * 20 + "\n")  # 160 letters
    options = ["--input", folder / "long.txt", "--output", folder / "v3", "--vocab-size", "60"]
    assert run(train_tokenizer, options) == 0
    printed = capsys.readouterr()
    assert "% of the text's tokens unknown" in printed.out
    assert "of the text's tokens are [UNK]; train with --algorithm unigram, or with" in printed.err
    run(train_tokenizer, ["--input", folder / "a.txt", "--output", folder / "v4"])
    printed = capsys.readouterr()
    assert "0.00% of the text's tokens unknown" in printed.out and "[UNK]" not in printed.err
    made = tokenizer.load_tokenizer(folder / "v4").vocab_size  # 30,522 were asked for
    assert printed.out.startswith(f"{made} pieces, all that the text gives, trained in ")


def test_only_the_first_rows_or_documents_are_read(folder, capsys):
    (folder / "five.txt").write_text("one\ntwo\n\nthree\n\nfour\n\nfive\n")
    given = ("--input", folder / "five.txt", "--shards", 1)
    assert build(folder, *given, "--layout", "corpus", "--documents", 2) == 0
    assert dataset_lib.Dataset.open(folder / "set").manifest.rows == 2
    assert build(folder, *given, "--rows", 2) == 0
    assert dataset_lib.Dataset.open(folder / "set").manifest.rows == 2
    trained = ["--input", folder / "five.txt", "--output", folder / "v6", "--documents", 2]
    assert run(train_tokenizer, trained) == 0
    vocabulary = (folder / "v6" / "vocab.txt").read_text()
    assert "o" in vocabulary and "f" not in vocabulary.split("[MASK]")[1]
    capsys.readouterr()
    assert run(train_tokenizer, [*trained[:4], "--rows", 2]) == 2
    assert "is read as documents; limit it by documents" in capsys.readouterr().err


def test_a_build_leaves_nothing_of_an_older_one(folder, capsys):
    assert build(folder, "--input", folder / "a.txt", "--shards", 3) == 0
    (folder / "set" / ".data-00001-of-00003.tfrecord.partial-7-a").write_text("half")
    kept = ("data-notes.txt", "data-00000-of-00004.parquet", "data-00000-of-00005.tfrecord")
    for name in kept:  # of the user's, as the hub calls its files
        (folder / "set" / name).write_text("kept")
    assert build(folder, "--input", folder / "a.txt", "--shards", 2) == 0
    left = sorted(path.name for path in (folder / "set").iterdir() if path.is_file())
    made = [f"data-0000{n}-of-00002.{kind}" for n in range(2) for kind in _KINDS]
    assert left == sorted([*made, *kept, "manifest.json"])
    assert verify.main([str(folder / "set"), "--workers", "1"]) == 0


def test_text_that_the_tokenizer_does_not_know_is_said_so(folder, capsys):
    (folder / "greek.txt").write_text("ένα δύο τρία\n" * 3 + "one sentence\n")
    assert build(folder, "--input", folder / "greek.txt") == 0
    # Nine words of Greek are [UNK]; each row has [CLS] and [SEP], too.
    pieces = len(tokenizer.load_tokenizer(folder / "vocab").encode(["one sentence"])[0])
    share = f"{9 / (3 * 5 + pieces + 2):.1%}"
    printed = capsys.readouterr().err
    assert f"warning: {share} of the tokens in {folder / 'set'} are [UNK]: its tokenizer" in printed
    folder.joinpath("set").rename(folder / "other")
    assert build(folder, "--input", folder / "a.txt") == 0
    assert "[UNK]" not in capsys.readouterr().err


def test_blank_rows_and_labels_without_rows_are_said_so(folder, capsys):
    lines = [f"bad\tsentence {n}" for n in range(9)]
    (folder / "sorted.tsv").write_text("\n".join(["label\ttext", *lines[:4], "bad\t", *lines[4:]]))
    labels = ["--task", "classification", "--label-column", "label", "--labels", "bad,good,fine"]
    assert build(folder, "--input", folder / "sorted.tsv", *labels) == 0
    warned = capsys.readouterr().err
    made = folder / "set"
    assert f"warning: 1 of 10 rows of {made} are blank (the first is row 4), and count" in warned
    assert f"warning: 10 rows of {made} have no label good, fine; check the label column" in warned
    made.rename(folder / "other")
    (folder / "mixed.tsv").write_text("label\ttext\nbad\tone\ngood\ttwo\nfine\tthe\n")
    assert build(folder, "--input", folder / "mixed.tsv", *labels) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_labelled_set_is_built_and_said_so(folder, capsys):
    labels = ["--task", "classification", "--label-column", "label", "--labels", "bad, good"]
    assert build(folder, "--input", folder / "a.tsv", *labels, "--shards", 3) == 0
    printed = capsys.readouterr()
    dataset = dataset_lib.Dataset.open(folder / "set")
    assert dataset.manifest.labels == ("bad", "good") and len(dataset) == 400
    tokens = f"{dataset.manifest.tokens:,}"
    assert printed.out.startswith(f"400 examples, {tokens} tokens in 3 shards, in ")
    assert printed.out.endswith(f": {folder}/set (fingerprint {dataset.fingerprint})\n")
    assert "at most 128 tokens, 90 pieces" in printed.err


def test_a_corpus_without_what_is_in_an_evaluation_set(folder, capsys):
    (folder / "dev.tsv").write_text("sentence\nThe one sentence, number 3\n")
    exclude = ["--exclude", folder / "dev.tsv", "--exclude-text-column", "sentence"]
    arguments = ["--input", folder / "a.txt", "--layout", "corpus", "--deduplicate", *exclude]
    assert build(folder, *arguments, "--max-length", 32) == 0
    without = "without 0 duplicates and 1 texts of evaluation sets"
    assert without in capsys.readouterr().out


def test_a_table_without_a_header_is_read_by_the_names_that_are_given(folder, capsys):
    (folder / "bare.tsv").write_text("bad\tthe one sentence\ngood\tthe two sentence\n")
    labels = ["--task", "classification", "--label-column", "label", "--labels", "bad,good"]
    given = ["--input", folder / "bare.tsv", "--columns", "label,text"]
    assert build(folder, *given, *labels) == 0
    assert capsys.readouterr().out.startswith("2 examples, ")
    assert run(train_tokenizer, [*given, "--vocab-size", "60", "--output", folder / "v6"]) == 0


def test_broken_rows_that_were_skipped_are_said_so(folder, capsys):
    (folder / "b.tsv").write_text("text\nthe one sentence\na\tb\n")
    assert build(folder, "--input", folder / "b.tsv", "--skip-broken-rows") == 0
    printed = capsys.readouterr()
    assert "in 1 shards, without 1 broken rows, in " in printed.out
    assert f"warning: 1 broken row was skipped for {folder / 'set'}; to see" in printed.err


def test_an_estimate_is_near_and_makes_nothing(folder, capsys):
    arguments = ["--input", folder / "a.txt", "--layout", "corpus", "--max-length", 32]
    assert build(folder, *arguments, "--estimate") == 0
    printed = capsys.readouterr().out
    assert not (folder / "set").exists()
    assert build(folder, *arguments) == 0
    made = capsys.readouterr().out
    assert printed.split()[1] == made.split()[0], "a small text is sampled whole"
    assert "nothing was made" in printed


def test_shares_end_with_the_whole(folder, capsys):
    arguments = ["--input", folder / "a.tsv", "--shards", 2, "--of", 2]
    assert build(folder, *arguments, "--shard", 1) == 0
    assert "the dataset is complete when all shares are made" in capsys.readouterr().out
    assert build(folder, *arguments, "--shard", 0) == 0
    assert capsys.readouterr().out.startswith("400 examples")


def test_what_is_left_out_may_be_in_files_without_a_header(folder, capsys):
    content = (folder / "a.tsv").read_text().splitlines()[1:]
    (folder / "dev.tsv").write_text("".join(f"{line}\n" for line in content[:3]))
    given = ["--input", folder / "a.tsv", "--exclude", folder / "dev.tsv"]
    assert build(folder, *given) == 2
    assert "dev.tsv has no column 'text'; its columns are '0', 'the one" in capsys.readouterr().err
    assert build(folder, *given, "--exclude-columns", "label,text") == 0
    made = capsys.readouterr().out
    assert made.startswith("397 examples") and " 3 texts of evaluation sets" in made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-length", "0"], "--max-length: "),
        (["--shards", "-1"], "--shards: "),
        (["--task", "classification", "--label-column", "label"], "needs labels: name them"),
        (["--layout", "corpus", "--labels", "a,b"], "a corpus has neither labels nor pairs"),
        (["--next-sentence"], "--next-sentence has no effect without --layout corpus"),
        (["--seed", "0"], "--seed has no effect without --layout corpus; give both"),
        (["--short-probability", "0.2"], "--short-probability has no effect without --layout"),
        (["--exclude-columns", "a"], "--exclude-columns has no effect without --exclude; give"),
        (["--exclude-text-column", "a"], "--exclude-text-column has no effect without --exclude"),
        (["--exclude-pair-column", "a"], "--exclude-pair-column has no effect without --exclude"),
        (["--shard", "1"], "give --shard I and --of N together"),
        (["--shard", "2", "--of", "2"], "with I from 0 to N - 1"),
        (["--text-column", "words"], "has no column 'words'; its columns are 'label', 'text'"),
        (["--exclude", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--name", "wiki/en"], "a dataset cannot have the name 'wiki/en'"),
        (["--name", ".wiki"], "a dataset cannot have the name '.wiki'"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_status_2(folder, capsys, arguments, message):
    assert build(folder, "--input", folder / "a.tsv", *arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    error = printed.err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (folder / "set" / "manifest.json").exists()


@pytest.mark.parametrize("more", [[], ["--estimate"]])
def test_a_name_that_no_file_can_have_is_refused_before_any_work(folder, capsys, more):
    assert build(folder, "--input", folder / "nowhere.txt", "--name", "wiki/en", *more) == 2
    assert capsys.readouterr().err.startswith("error: a dataset cannot have the name 'wiki/en'")
    assert not (folder / "set").exists()


def test_the_commands_run_as_programs(folder):
    root = pathlib.Path(build_records.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for name, needed in (("build_records", "--next-sentence"), ("train_tokenizer", "--cased")):
        program = [sys.executable, "-m", f"pd_jax.tools.{name}"]
        help_ = subprocess.run(
            [*program, "--help"], capture_output=True, text=True, env=environment
        )
        assert help_.returncode == 0 and needed in help_.stdout
    program = [sys.executable, "-m", "pd_jax.tools.build_records", "--input", str(folder / "a.tsv")]
    program += ["--tokenizer", str(folder / "vocab"), "--output", str(folder / "set")]
    done = subprocess.run(
        [*program, "--shards", "2", "--workers", "2"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("400 examples")
    assert "building records: 0.0 MB in " in done.stderr


def beam_command(folder, *arguments):
    """Returns what the command says in a process of its own: Beam warns of much that it imports."""
    options = ["--input", folder / "a.txt", "--layout", "corpus", "--tokenizer", folder / "vocab"]
    options += ["--shards", 3, "--output", folder / "by-beam", *arguments, "--beam"]
    return subprocess.run(
        [sys.executable, "-m", "pd_jax.tools.build_records", *map(str, options), *BEAM],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
    )


BEAM = ("runner=DirectRunner",)
WITHOUT_BEAM = importlib.util.find_spec("apache_beam") is None


@pytest.mark.skipif(WITHOUT_BEAM, reason="apache-beam is not installed")
def test_beam_makes_the_same_shards_byte_for_byte(folder):
    found = beam_command(folder, "--deduplicate")
    assert found.returncode == 0, found.stderr
    arguments = ["--input", folder / "a.txt", "--layout", "corpus", "--deduplicate"]
    assert build(folder, *arguments, "--shards", 3) == 0
    names = sorted(path.name for path in (folder / "set").glob("data-*"))
    assert len(names) == 9
    for name in [*names, "manifest.json"]:
        assert (folder / "by-beam" / name).read_bytes() == (folder / "set" / name).read_bytes()


@pytest.mark.skipif(WITHOUT_BEAM, reason="apache-beam is not installed")
def test_what_a_job_raises_on_beam_is_told(folder):
    (folder / "a.txt").write_bytes(b"a sentence.\n\xff\xfe\n")
    found = beam_command(folder)
    assert found.returncode == 2
    printed = found.stderr.splitlines()[-1]
    assert printed.startswith("error: the Beam pipeline failed: ") and "a.txt:2" in printed
    assert "finished shards are kept" in printed


@pytest.mark.skipif(not WITHOUT_BEAM, reason="apache-beam is installed")
def test_beam_that_is_absent_is_named(folder):
    found = beam_command(folder)
    assert found.returncode == 2 and "install pd_jax[beam]" in found.stderr
