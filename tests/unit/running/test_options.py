"""Options of the tools: a value that is none ends in a line that names its option."""

import importlib

import pytest

from pd_jax import config
from pd_jax.errors import ConfigError
from pd_jax.tools import command, label, plan

NUMBERS = "is not a whole number from 1 on"
NEEDED = {
    "label": ("--teacher=t", "--records=r", "--output=o"),
    "verify": ("set",),
    "import_records": ("a.tfrecord", "--tokenizer=t", "--output=o"),
    "plan": ("--sizes=Tiny",),
    "import_logits": ("--input=i", "--records=r", "--output=o"),
    "similarity": ("--labelled=a", "--transfer=b"),
    "build_records": ("--input=i", "--tokenizer=t", "--output=o"),
}


@pytest.mark.parametrize(
    ("tool", "wrong", "message"),
    [
        ("label", "--lengths=32,64,", f"argument --lengths: '' {NUMBERS}"),
        ("label", "--lengths=32,0", f"argument --lengths: '0' {NUMBERS}"),
        ("label", "--states=a", "argument --states: 'a' is not a whole number from 0 on"),
        ("verify", "--workers=0", f"argument --workers: '0' {NUMBERS}"),
        ("verify", "--sample=0", f"argument --sample: '0' {NUMBERS}"),
        ("import_records", "--workers=0", f"argument --workers: '0' {NUMBERS}"),
        ("plan", "--batch=0", f"argument --batch: '0' {NUMBERS}"),
        ("plan", "--steps=-1", f"argument --steps: '-1' {NUMBERS}"),
        ("label", "--batch=0", f"argument --batch: '0' {NUMBERS}"),
        ("label", "--seed=-1", "argument --seed: '-1' is not a whole number from 0 on"),
        ("similarity", "--seed=-1", "argument --seed: '-1' is not a whole number from 0 on"),
        ("import_logits", "--allow-missing=-1", "argument --allow-missing: '-1' is not a whole"),
        ("build_records", "--rows=0", f"argument --rows: '0' {NUMBERS}"),
    ],
)
def test_what_is_no_number_is_told_with_its_option(tool, wrong, message, capsys):
    main = importlib.import_module(f"pd_jax.tools.{tool}").main
    with pytest.raises(SystemExit) as ended:
        main([*NEEDED[tool], wrong])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "given", "needed"),
    [
        ("label", "--temperature=2.0", "--top-k"),
        ("label", "--mask-rate=0.15", "--top-k"),
        ("label", "--whole-word", "--top-k"),
        ("label", "--seed=0", "--top-k"),
        ("label", "--text-column=text", "--input"),
        ("label", "--pair-column=other", "--input"),
        ("verify", "--teacher=t", "--logits"),
        ("verify", "--sample=8", "--teacher"),
        ("verify", "--tolerance=0", "--teacher"),
        ("plan", "--price-per-chip-hour=2", "--topology"),
        ("plan", "--labels=3", "--task"),
        ("import_records", "--labels=a,b", "--task"),
        ("plan", "--stage=pretrain", "--config"),
        ("plan", "--rows=640", "--config"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(tool, given, needed):
    main = importlib.import_module(f"pd_jax.tools.{tool}").main
    message = (
        f"^{given.partition('=')[0]} has no effect without {needed}; give both or leave it out"
    )
    with pytest.raises(ConfigError, match=message):
        main([*NEEDED[tool], given])


@pytest.mark.parametrize(
    "given", ["--jobs=mlm", "--batch=8", "--length=8", "--steps=8", "--micro-batches=1", "--remat"]
)
def test_what_a_config_says_is_not_said_again(given):
    message = f"^{given.partition('=')[0]} has no effect without --sizes; give both or leave"
    with pytest.raises(ConfigError, match=message):
        plan.main(["--config=configs/quickstart.py", given])


def test_masking_is_as_given_and_else_as_by_default():
    known = [*NEEDED["label"], "--top-k=8"]
    usual = label._stage(label._parser().parse_args(known), (16,)).language
    assert usual == config.MaskedTokens(top_k=8)
    given = ["--temperature=1.5", "--mask-rate=0.2", "--whole-word", "--seed=3"]
    asked = label._stage(label._parser().parse_args([*known, *given]), (16,)).language
    assert asked == config.MaskedTokens(
        top_k=8, temperature=1.5, mask_rate=0.2, whole_word=True, seed=3
    )


def test_texts_are_read_from_the_columns_that_are_named():
    known = [*NEEDED["label"], "--input", "a.tsv"]
    usual = label._stage(label._parser().parse_args(known), (16,)).source
    assert usual == config.Source(path=("a.tsv",))
    named = ["--text-column=one", "--pair-column=two"]
    asked = label._stage(label._parser().parse_args([*known, *named]), (16,)).source
    assert asked == config.Source(path=("a.tsv",), text="one", pair="two")


@pytest.mark.parametrize(
    ("given", "where"),
    [("--output=~/o", "--output"), ("--model=A=~/m", "--model=A"), ("~/set", "an argument")],
)
def test_a_home_that_the_shell_left_as_it_is_is_told(given, where, capsys, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    ended = command.run(lambda arguments: pytest.fail("it began"), ["--jobs=mlm", given])
    path = given.rpartition("=")[2]
    told = f"{where}: {path} begins with ~, which stays as it is here; write /home/me{path[1:]}"
    assert (ended, capsys.readouterr().err) == (2, f"error: {told}\n")
