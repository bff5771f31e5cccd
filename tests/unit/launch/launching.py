"""What tests of launchers share: running one, and what it would run."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[3]
LAUNCH = ROOT / "launch"
JOB = ("--config=configs/quickstart.py", "--workdir=gs://bucket/run", "--config.run.mesh.fsdp=2")
ODD = '--config.report.title=a "b" & $c'


def bash(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def planned(*command: str) -> list[list[str]]:
    """Returns the commands, word by word, that a launcher would run."""
    done = bash(*command, "--dry-run")
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\$'((?:[^'\\]|\\.)*)'", lambda match: shlex.quote(match[1]), done.stderr)
    return [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("+ ")]


def fake_commands(folder: pathlib.Path, **scripts: str) -> str:
    """Returns a PATH on which these commands do what they are told to."""
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def checkout(folder: pathlib.Path, main: str) -> pathlib.Path:
    """Returns a folder with the launchers, installed, whose `python -m pd_jax.main` does `main`."""
    shutil.copytree(LAUNCH, folder / "launch")
    shutil.copy(ROOT / "setup.py", folder)
    (folder / ".venv/bin").mkdir(parents=True)
    cases = f'case "$2" in pip) exit ;; pd_jax.main) ;; *) echo 1; exit ;; esac\n{main}'
    fake_commands(folder / ".venv/bin", python=cases)
    return folder
