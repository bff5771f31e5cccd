"""Every command in README and CONTRIBUTING parses, and the README's config is a pipeline."""

import ast
import dataclasses
import importlib
import itertools
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from configs import common
from pd_jax import config as config_lib
from pd_jax.config import reading
from pd_jax.planning import order

ROOT = pathlib.Path(__file__).resolve().parents[3]


def blocks(language: str) -> list[str]:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return sorted({line for line in lines if line})


@pytest.mark.parametrize("command", commands())
def test_a_command_parses(command):
    words = shlex.split(command.rpartition("| ")[2])
    words = list(itertools.dropwhile(lambda word: re.match("[A-Z_]+=", word), words))
    if words[0] == "bash":
        assert subprocess.run(["bash", "-n", ROOT / words[1]], check=False).returncode == 0
    elif words[:2] == ["python", "-m"] and words[2] == "pd_jax.main":
        flags = dict((word[2:].split("=", 1) + [""])[:2] for word in words[3:])
        known = {
            "config",
            "workdir",
            "stages",
            "changed",
            "distributed",
            "jobs",
            "vmap",
            "estimate",
        }
        assert {name for name in flags if not name.startswith("config.")} <= known
        path = flags["config"].partition(":")[0]
        assert path == "configs/mine.py" or (ROOT / path).exists()
    elif words[:2] == ["python", "-m"]:
        parser = importlib.import_module(words[2])._parser()
        parser.parse_args(words[3:])
    elif words[0] == "python" and words[1].endswith(".py"):
        known = [sys.executable, ROOT / words[1], "--help"]
        printed = subprocess.run(known, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        assert all(word in printed for word in words[2:] if word.startswith("--"))
    else:
        pytest.fail(f"this test does not know how to check {command!r}")


def test_no_figure_waits_to_be_filled_in():
    assert re.findall(r"@[A-Z]+@", (ROOT / "README.md").read_text()) == []


def test_the_readmes_config_is_a_pipeline():
    source, _ = blocks("python")
    names: dict = {}
    exec(compile(source, "README.md", "exec"), names)
    pipeline = reading.pipeline_from(names["get_config"]())
    assert order(pipeline.stages)[-1] == "pd_f"


def test_the_readmes_table_lists_the_tools_that_there_are():
    text = (ROOT / "README.md").read_text().partition("\n## Tools\n")[2]
    listed = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    shared = {"__init__", "command", "options", "step_cost"}
    present = {path.stem for path in (ROOT / "pd_jax" / "tools").glob("*.py")} - shared
    assert listed == present


def test_the_readmes_examples_of_records_are_stages():
    _, source = blocks("python")
    given = {"common": common, "vocabulary": "vocab.txt", "classes": ("no", "yes")}
    lines = [ast.unparse(statement) for statement in ast.parse(source).body]
    stages = {f"s{number}": eval(line, dict(given)) for number, line in enumerate(lines)}
    made = reading.pipeline_from(common.locked({"name": "examples", "stages": stages})).stages
    assert [made[name].examples.task for name in stages] == [
        "classification",
        "regression",
        "multilabel",
        "classification",
    ]
    pair, rating, _, headless = (made[name].source for name in stages)
    assert (pair.text, pair.pair, rating.text) == ("premise", "hypothesis", "text")
    assert set(headless.columns) == {headless.text, headless.label}


def test_the_readmes_tables_of_keys_have_the_codes_defaults():
    text = (ROOT / "README.md").read_text()
    for title, kinds in {
        "key of a source": (config_lib.Source,),
        "key of records": (config_lib.RecordsStage, config_lib.Corpus),
    }.items():
        table = text.partition(f"| {title} |")[2].partition("\n\n")[0]
        shown = dict(re.findall(r"^\| `(\w+)` \|\s*`?([^`|]*?)`?\s*\|", table, re.MULTILINE))
        known = {
            field.name: "" if field.default is dataclasses.MISSING else repr(field.default)
            for kind in kinds
            for field in dataclasses.fields(kind)
        }
        assert shown
        assert {name: known[name].replace("'", '"') for name in shown} == shown
        assert len(kinds) > 1 or list(shown) == list(known)
