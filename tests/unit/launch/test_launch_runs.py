"""Launchers at work, with a stand-in for the program: what returns at once, and what stops."""

import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.unit.launch.launching import JOB, LAUNCH, bash, checkout, fake_commands

TPU = ("--name=n", "--zone=z")
WORK = """trap 'echo saved >>said; exit 75' TERM
echo begun >>said
while :; do sleep 0.1; done"""


def wait_for(path: pathlib.Path, text: str) -> None:
    """Returns when a file holds a text."""
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < deadline, f"{path} has no {text!r}"
        time.sleep(0.05)


def test_stop_tells_that_it_cannot_look_for_a_run(tmp_path: pathlib.Path) -> None:
    for name in ("bash", "dirname", "hostname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = bash("launch/stop.sh", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "error: pgrep is not installed on" in done.stderr


def tpu_vm(verb: str, path: str) -> subprocess.CompletedProcess[str]:
    # Both streams go to pipes, as through `| cat`: whoever keeps one open keeps this from ending.
    return bash("launch/tpu_vm.sh", verb, *TPU, *JOB, PATH=path, PD_JAX_REPEAT_SECONDS="0")


def test_tpu_run_returns_at_once_a_second_is_told_and_stop_lets_it_save(
    tmp_path: pathlib.Path,
) -> None:
    host = checkout(tmp_path / "pd_jax", WORK)
    # ssh, as the host's shell sees it: the command is the last word.
    ssh = f'for word; do :; done\ncd "{tmp_path}" && exec bash -c "${{word#--command=}}"'
    path = fake_commands(tmp_path, gcloud=ssh)
    try:
        done = tpu_vm("run", path)
        assert done.returncode == 0, done.stderr
        wait_for(host / "said", "begun\n")
        again = tpu_vm("run", path)
        assert again.returncode == 2
        assert (
            "error: a run is already in progress here; see logs, or end it with stop"
            in again.stderr
        )
    finally:
        stopped = tpu_vm("stop", path)
    assert stopped.returncode == 0, stopped.stderr
    # It has ended, and was not begun again.
    assert (host / "said").read_text() == "begun\nsaved\n"
    assert "running it again" not in (host / "run.log").read_text()
    assert "no run is in progress" in tpu_vm("stop", path).stderr


def test_tpu_slices_are_started_side_by_side_though_one_fails(tmp_path: pathlib.Path) -> None:
    ssh = f'cd "{tmp_path}"\necho >"$5"\nuntil [ -e n-0 ] && [ -e n-1 ]; do sleep 0.1; done\n'
    path = fake_commands(tmp_path, gcloud=ssh + '[ "$5" != n-0 ]')
    done = bash("launch/tpu_vm.sh", "run", *TPU, "--slices=2", *JOB, PATH=path)
    assert done.returncode == 1
    assert {"n-0", "n-1"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("ends_with", [0, 1])
def test_tpu_setup_ends_as_the_installation_does(ends_with: int, tmp_path: pathlib.Path) -> None:
    host = checkout(tmp_path / "pd_jax", "")
    pip = f'[ "$3" = --version ] || exit {ends_with}'
    fake_commands(host / ".venv/bin", python=pip)
    ssh = 'for word; do :; done\n[ "$4" = scp ] || exec bash -c "${word#--command=}"'
    here = f'cd "{tmp_path}"\n{ssh}'
    path = fake_commands(tmp_path, gcloud=here, git=":", tar=":", sudo=":")
    done = bash("launch/tpu_vm.sh", "setup", *TPU, PATH=path, PYTHON=sys.executable)
    assert done.returncode == 2 * ends_with, done.stderr
    assert ("error: pip did not install pd_jax[tpu]" in done.stderr) == bool(ends_with)
    assert (host / ".venv/.installed-tpu").exists() != bool(ends_with)


def test_a_slurm_task_passes_a_signal_on(tmp_path: pathlib.Path) -> None:
    fault, program = tmp_path / "fault", tmp_path / "program"
    program.write_text(f'cd "{tmp_path}"\n{WORK}')
    words = ["bash", str(LAUNCH / "slurm_task.sh"), str(fault), "sh", str(program)]
    process = subprocess.Popen(words)
    wait_for(tmp_path / "said", "begun\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert not fault.exists()


@pytest.mark.parametrize(
    ("command", "count"), [("gpu_host.sh", 1), ("local.sh", 1), ("local.sh --processes=2", 2)]
)
def test_sigterm_reaches_the_program(command: str, count: int, tmp_path: pathlib.Path) -> None:
    host = checkout(tmp_path, WORK)
    words = ["bash", *f"{host}/launch/{command}".split(), *JOB]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    wait_for(host / "said", "begun\n" * count)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert (host / "said").read_text() == "begun\n" * count + "saved\n" * count


def made(folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return bash("-c", f'. launch/functions.sh && make_venv "{folder}"', PYTHON=sys.executable)


def test_an_environment_without_pip_gets_one_and_keeps_what_it_has(tmp_path: pathlib.Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (tmp_path / "mine").write_text("kept")
    done = made(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine").read_text() == "kept"
    subprocess.run([tmp_path / "bin/python", "-m", "pip", "--version"], check=True)
    assert made(tmp_path).stderr == ""


def test_an_environment_that_cannot_get_pip_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text("")
    fake_commands(tmp_path / "bin", python="exit 1")
    done = made(tmp_path)
    assert done.returncode == 2
    assert "remove the folder" in done.stderr.splitlines()[-1]
    assert (tmp_path / "bin/python").exists()
