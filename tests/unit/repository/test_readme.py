"""Every command in README and CONTRIBUTING parses, and the README's config is a pipeline."""

import importlib
import itertools
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

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
    (source,) = blocks("python")
    names: dict = {}
    exec(compile(source, "README.md", "exec"), names)
    pipeline = reading.pipeline_from(names["get_config"]())
    assert order(pipeline.stages)[-1] == "pd_f"


def test_the_readmes_table_lists_the_tools_that_there_are():
    text = (ROOT / "README.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    shared = {"__init__", "command", "options"}
    present = {path.stem for path in (ROOT / "pd_jax" / "tools").glob("*.py")} - shared
    assert listed == present
