"""Options of the tools: a value that is none ends in a line that names its option."""

import importlib

import pytest

NUMBERS = "is not a whole number from 1 on"
NEEDED = {
    "label": ("--teacher=t", "--records=r", "--output=o"),
    "verify": ("set",),
    "import_records": ("a.tfrecord", "--tokenizer=t", "--output=o"),
    "plan": ("--sizes=Tiny",),
}


@pytest.mark.parametrize(
    ("tool", "wrong", "message"),
    [
        ("label", "--lengths=32,64,", f"argument --lengths: '' {NUMBERS}"),
        ("label", "--lengths=32,0", f"argument --lengths: '0' {NUMBERS}"),
        ("label", "--states=a", "argument --states: 'a' is not a whole number from 0 on"),
        ("verify", "--workers=0", f"argument --workers: '0' {NUMBERS}"),
        ("verify", "--sample=0", f"argument --sample: '0' {NUMBERS}"),
        ("verify", "--length=0", f"argument --length: '0' {NUMBERS}"),
        ("import_records", "--workers=0", f"argument --workers: '0' {NUMBERS}"),
        ("plan", "--batch=0", f"argument --batch: '0' {NUMBERS}"),
        ("plan", "--steps=-1", f"argument --steps: '-1' {NUMBERS}"),
    ],
)
def test_what_is_no_number_is_told_with_its_option(tool, wrong, message, capsys):
    main = importlib.import_module(f"pd_jax.tools.{tool}").main
    with pytest.raises(SystemExit) as ended:
        main([*NEEDED[tool], wrong])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
