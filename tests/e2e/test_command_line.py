"""The command itself: a mistake ends it with one line and status 2; a closed output does not."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.e2e.chain import small_chain, write_text

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = "--config=configs/study/sizes.py"


def command(*arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pd_jax.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=cwd,
    )


def refused(*arguments: str, cwd: pathlib.Path = ROOT) -> str:
    """Returns the one line of a command that was refused."""
    ended = command(*arguments, cwd=cwd)
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SIZES, "--stage=text"), "error: --stage is not a flag; did you mean 'stages'?"),
        ((SIZES, "--frobnicate"), "error: --frobnicate is not a flag; see --help"),
        ((SIZES, "--jobs=x"), "error: flag --jobs=x: invalid literal for int()"),
        ((SIZES, "--jobs=0"), "error: flag --jobs=0: 0 is not a positive integer"),
        ((SIZES, "stray"), "error: unexpected argument 'stray'; flags begin with --"),
        ((SIZES, "--config.run.log_steps=x"), "error: flag --config.run.log_steps=x: invalid"),
        ((), "error: --config and --workdir are needed; give both"),
        ((f"{SIZES}:seeds=x",), "sizes.py:seeds=x: config argument seeds='x': give a whole number"),
        ((f"{SIZES}:sede=1",), "config argument 'sede' is unknown; this config takes teacher="),
        ((f"{SIZES}:sizes=Tinny",), "size 'Tinny' is none: write L4_H256"),
        (("--config=configs/study/comparison.py:long",), "config argument teachers=4: patient"),
    ],
)
def test_what_the_flags_say_wrongly_ends_in_one_line(tmp_path, arguments, message):
    line = refused(*arguments, f"--workdir={tmp_path}")
    assert line.startswith("error: ") and message in line


def test_a_missing_workdir_ends_in_one_line():
    for workdir in ((), ("--workdir=",)):
        assert refused(SIZES, *workdir) == "error: --config and --workdir are needed; give both"


def test_a_workdir_that_no_file_could_name_ends_in_one_line(tmp_path):
    line = refused(SIZES, os.fsdecode(f"--workdir={tmp_path}/".encode() + b"\xe4"))
    assert line.endswith("\\udce4' is not UTF-8; choose another name")


@pytest.mark.parametrize(
    ("body", "argument", "message"),
    [
        ("\ndef get_config(:\n", "", "mine.py, line 2: invalid syntax; correct the file"),
        (
            "def get_config():\n    return {}\n",
            ":x",
            "takes 0 positional arguments but 1 was given",
        ),
        ("def get_config(arg):\n    return {}\n", "", "write FILE:ARG if it takes an argument"),
        ("def get_confg():\n    return {}\n", "", "has no function get_config; write one"),
        ("def get_config():\n    open('none.txt')\n", "", "No such file or directory: 'none.txt'"),
        (
            "def get_config():\n    raise ValueError('no\\nsuch\\ndata')\n",
            "",
            "mine.py: no such data",
        ),
    ],
)
def test_a_config_that_cannot_be_read_ends_in_one_line(tmp_path, body, argument, message):
    (tmp_path / "mine.py").write_text(body)
    line = refused(f"--config={tmp_path / 'mine.py'}{argument}", f"--workdir={tmp_path / 'runs'}")
    assert line.startswith("error: ") and message in line


def test_a_config_of_the_checkout_is_run_from_there(tmp_path):
    config = ROOT / "configs" / "quickstart.py"
    (tmp_path / "pd_jax").symlink_to(ROOT / "pd_jax")  # found from here, as an installed one is
    assert refused(f"--config={config}", "--workdir=runs", cwd=tmp_path) == (
        f"error: --config={config} imports configs, which is not here; run from the checkout"
    )


def test_a_run_that_nobody_reads_goes_on_to_its_report(tmp_path):
    write_text(tmp_path / "text")
    chain = small_chain(tmp_path / "text")
    chain["stages"] = {name: chain["stages"][name] for name in ("vocabulary", "train", "teacher")}
    chain["stages"]["teacher"] |= {"length": {"steps": 2}, "evaluation": {}}
    chain["report"] = {"rows": (("Teacher", "teacher"),)}
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {chain!r}\n")
    flags = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'runs'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "pd_jax.main", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        printed = running.stderr.read()
    assert running.returncode == 0, printed
    assert "BrokenPipe" not in printed and "Traceback" not in printed
    assert list((tmp_path / "runs" / "stages").glob("teacher-*/done.json"))
    assert list((tmp_path / "runs").rglob("*.html"))
