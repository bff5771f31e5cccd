"""The quick start as a newcomer runs it: one command, stopped, repeated, and predicted with."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
METHODS = {"basic", "distillation", "pf", "pd", "pd_f"}
SECRETS = {"HF_TOKEN": "hf_5c7e1f0b9a", "AWS_SECRET_ACCESS_KEY": "kq7Zw2pX91"}
"""Other contents of a user's environment, which nobody else must ever read."""


def command() -> list[str]:
    """Returns the command as typed in a folder of one's own: the workdir is a relative path."""
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}:smoke"
    return [sys.executable, "-m", "pd_jax.main", config, "--workdir=work"]


def environment() -> dict[str, str]:
    return {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}


def run(words, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=900,
        **options,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir in which the quick start was stopped by SIGTERM and then run to its end."""
    folder = tmp_path_factory.mktemp("quickstart") / "work"
    process = subprocess.Popen(
        command(),
        cwd=folder.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(3000):
        if list(folder.glob("stages/pretrain*/parameters.txt")):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    assert "stopped by SIGTERM; run the same command again to continue" in errors
    ended = run(command(), cwd=folder.parent)
    assert ended.returncode == 0, ended.stderr
    assert "continuing in" in ended.stdout
    return folder, ended.stdout


def test_the_table_has_all_five_methods_and_the_page_is_there(workdir):
    folder, printed = workdir
    record = json.loads((folder / "pipelines" / "quickstart.json").read_text())
    assert METHODS <= set(record["status"])
    assert set(record["status"].values()) == {"done"}
    for label in record["report"]["rows"]:
        assert label in printed
    page = folder.parent / pathlib.Path(printed.strip().splitlines()[-1].removeprefix("report: "))
    assert page.read_text().startswith("<!doctype html>")


def test_the_same_command_again_retrains_nothing(workdir):
    folder, _ = workdir
    again = run(command(), cwd=folder.parent)
    assert again.returncode == 0
    assert " 0 to run" in again.stdout.splitlines()[0]


def test_the_student_labels_lines(workdir):
    folder, _ = workdir
    record = json.loads((folder / "pipelines" / "quickstart.json").read_text())
    model = folder / record["stages"]["pd"] / "model"
    words = [sys.executable, "-m", "pd_jax.tools.predict", "--model", str(model)]
    ended = run(words, input="the plot was lovely\nthe plot was dull\n")
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [row["label"] in ("negative", "positive") for row in rows] == [True, True]


def test_no_file_and_no_line_holds_what_is_secret_in_the_environment(workdir, tmp_path):
    folder, printed = workdir
    record = json.loads((folder / "pipelines" / "quickstart.json").read_text())
    model = str(folder / record["stages"]["pd"] / "model")
    words = [sys.executable, "-m", "pd_jax.tools.export", "--model", model, "--format=hf"]
    exported = run([*words, f"--output={tmp_path / 'exported'}"])
    assert exported.returncode == 0, exported.stderr
    files = [path for root in (folder, tmp_path) for path in root.rglob("*") if path.is_file()]
    assert {"README.md", "report-quickstart.html", "metrics.jsonl"} <= {path.name for path in files}
    for secret in SECRETS.values():
        assert secret not in printed + exported.stdout + exported.stderr
        assert [str(path) for path in files if secret.encode() in path.read_bytes()] == []
