"""Launchers: each is rendered by --dry-run and held to what its scheduler requires."""

import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

from pd_jax.parallel import distributed
from tests.unit.launch.launching import (
    JOB,
    LAUNCH,
    ODD,
    ROOT,
    bash,
    checkout,
    fake_commands,
    planned,
)

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("env/*.sh"), LAUNCH / "slurm.sbatch"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: pathlib.Path) -> None:
    assert bash("-n", str(script)).stderr == ""


def test_shellcheck_has_nothing_to_say() -> None:
    checker = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}:/usr/bin")
    if checker is None:
        pytest.skip("shellcheck is not installed; it comes with the dev extra")
    command = [checker, "--external-sources", *map(str, SCRIPTS), "tests/run.sh", ".ci/run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["local", "gpu_host", "gke", "xpk", "sky"])
def test_help_shows_the_command_and_dry_run(name: str) -> None:
    done = bash(f"launch/{name}.sh", "--help")
    assert done.returncode == 0
    assert f"bash launch/{name}.sh" in done.stdout
    assert "--dry-run" in done.stdout
    assert "#" not in done.stdout


@pytest.mark.parametrize("name", ["gpu_host.sh", "gke.sh", "xpk.sh", "sky.sh", "slurm.sbatch"])
def test_a_missing_flag_is_named(name: str) -> None:
    done = bash(f"launch/{name}", "--dry-run", "--workdir=somewhere")
    assert done.returncode == 2
    assert re.fullmatch(r"error: --\w+=\.\.\. is missing; see .*\n", done.stderr)


def test_local_runs_the_quick_start_and_later_flags_win() -> None:
    main = planned("launch/local.sh", ODD)[-1]
    assert main == [
        ".venv/bin/python",
        "-m",
        "pd_jax.main",
        "--config=configs/quickstart.py",
        "--workdir=runs/quickstart",
        ODD,
    ]


def test_local_starts_processes_that_differ_in_their_number_only() -> None:
    commands = [
        command for command in planned("launch/local.sh", "--processes=3") if "env" in command
    ]
    numbers = [next(word for word in command if "PROCESS_ID" in word) for command in commands]
    assert sorted(numbers) == [f"PD_JAX_PROCESS_ID={index}" for index in range(3)]
    assert len({tuple(w for w in command if "PROCESS_ID" not in w) for command in commands}) == 1
    assert "PD_JAX_PROCESSES=3" in commands[0]


@pytest.mark.parametrize("count", ["0", "two", ""])
def test_local_refuses_what_is_no_number_of_processes(count: str) -> None:
    done = bash("launch/local.sh", "--dry-run", f"--processes={count}")
    assert done.returncode == 2
    assert "is not a number of processes" in done.stderr


def test_gpu_host_runs_under_the_gpu_settings() -> None:
    main = planned("launch/gpu_host.sh", *JOB)[-1]
    assert main[:3] == ["bash", "launch/with_env.sh", "gpu"]
    assert main[-len(JOB) :] == list(JOB)


def test_slurm_directives() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text()
    directives = dict(
        line.removeprefix("#SBATCH --").split("=", 1) if "=" in line else (line.split("--")[1], "")
        for line in text.splitlines()
        if line.startswith("#SBATCH")
    )
    assert directives["ntasks-per-node"] == directives["gres"].removeprefix("gpu:")
    assert "requeue" in directives
    assert directives["open-mode"] == "append"
    # To the tasks, not to the batch shell alone (B:), and in time to save.
    assert re.fullmatch(r"TERM@\d{2,}", directives["signal"])
    assert "gpus-per-task" not in directives
    # Slurm reads directives up to the first command only.
    first = next(i for i, line in enumerate(text.splitlines()) if line and line[0] != "#")
    assert text.splitlines().index("#SBATCH --requeue") < first


def test_slurm_starts_one_task_a_gpu() -> None:
    assert planned("launch/slurm.sbatch", *JOB)[-1] == [
        "srun",
        "--kill-on-bad-exit=1",
        "--cpus-per-task=8",
        *("bash", "launch/slurm_task.sh", ".fault-0-0"),
        *("bash", "launch/with_env.sh", "gpu"),
        *(".venv/bin/python", "-m", "pd_jax.main", "--distributed=on"),
        *JOB,
    ]


def test_slurm_gives_its_tasks_the_cores_that_sbatch_was_asked_for() -> None:
    done = bash("launch/slurm.sbatch", *JOB, "--dry-run", SLURM_CPUS_PER_TASK="3")
    assert " srun --kill-on-bad-exit=1 --cpus-per-task=3 bash " in done.stderr
    assert "#SBATCH --cpus-per-task=8\n" in (LAUNCH / "slurm.sbatch").read_text()


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, "0", False),
        (1, "0", True),
        (2, "0", False),
        (75, "0", True),
        (134, "3", True),
        (134, "50", False),
    ],
)
def test_slurm_requeues_what_the_same_command_fixes(
    status: int, restarts: str, requeued: bool, tmp_path: pathlib.Path
) -> None:
    checkout(tmp_path, "exit 9")
    scripts = {"srun": f"exit {status}", "scontrol": 'echo "$@" >requeued', "sleep": "echo >paused"}
    path = fake_commands(tmp_path, **scripts)
    done = bash(
        str(LAUNCH / "slurm.sbatch"),
        *JOB,
        PATH=path,
        SLURM_SUBMIT_DIR=str(tmp_path),
        SLURM_JOB_ID="77",
        SLURM_RESTART_COUNT=restarts,
    )
    assert done.returncode == status
    assert (tmp_path / "requeued").exists() == requeued
    # A fault at the start would else come again at once, fifty times.
    assert (tmp_path / "paused").exists() == (status == 1)


def test_slurm_does_not_requeue_what_one_task_ended_with_2(tmp_path: pathlib.Path) -> None:
    checkout(tmp_path, "exit 2")
    # srun kills the other tasks, and returns the highest status.
    srun = 'while [ "$1" != bash ]; do shift; done\n"$@"\necho $? >task\nls -a >seen\nexit 143'
    path = fake_commands(tmp_path, srun=srun, scontrol='echo "$@" >requeued')
    done = bash(
        str(LAUNCH / "slurm.sbatch"),
        *JOB,
        PATH=path,
        SLURM_SUBMIT_DIR=str(tmp_path),
        SLURM_JOB_ID="77",
        SLURM_RESTART_COUNT="3",
    )
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "task").read_text() == "2\n"
    assert ".fault-77-3" in (tmp_path / "seen").read_text().split()
    assert not (tmp_path / ".fault-77-3").exists()
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("hardware", ["cpu", "gpu", "tpu", "tpu_slices"])
def test_settings_are_set_each_with_its_reason(hardware: str) -> None:
    done = bash("launch/with_env.sh", hardware, "env", XLA_FLAGS="--mine", LIBTPU_INIT_ARGS="--own")
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert values["JAX_PLATFORMS"].startswith({"gpu": "cuda", "cpu": "cpu"}.get(hardware, "tpu"))
    # What the user set is kept.
    assert values["XLA_FLAGS"].split()[0] == "--mine"
    assert values["LIBTPU_INIT_ARGS"].split()[0] == "--own"
    blocks = (LAUNCH / f"env/{hardware}.sh").read_text().strip().split("\n\n")
    assert all(block.startswith("#") for block in blocks)


def test_xla_knows_the_gpu_flags() -> None:
    # XLA ends a process at a flag it does not know, on every platform.
    code = "import jax; print(jax.devices())"
    done = bash("launch/with_env.sh", "gpu", "env", "JAX_PLATFORMS=cpu", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


def test_unknown_hardware_is_refused() -> None:
    done = bash("launch/with_env.sh", "abacus", "true")
    assert done.returncode == 2
    assert "no settings for abacus" in done.stderr


def test_repeat_stops_at_what_a_repeat_does_not_mend(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "job"
    script.write_text(
        'n=$(cat "$1" 2>/dev/null || echo 0)\necho $((n + 1)) >"$1"\n'
        "case $n in 0) exit 75 ;; 1) exit 134 ;; *) exit 2 ;; esac\n"
    )
    count = tmp_path / "count"
    done = bash("launch/repeat.sh", "sh", str(script), str(count), PD_JAX_REPEAT_SECONDS="0")
    assert done.returncode == 2
    assert count.read_text().strip() == "3"


def test_repeat_gives_up_on_a_fault_that_stays() -> None:
    started = time.monotonic()
    done = bash("launch/repeat.sh", "sh", "-c", "exit 1", PD_JAX_REPEAT_SECONDS="0")
    assert done.returncode == 1
    assert "ten times in a row" in done.stderr
    assert time.monotonic() - started < 60


def test_repeat_gives_up_where_the_peers_never_come() -> None:
    limit = re.search(r"^quick_seconds=(\d+)$", (LAUNCH / "repeat.sh").read_text(), re.MULTILINE)
    assert limit is not None
    # Whoever waits for peers also starts jax, and ends later than that.
    assert int(limit[1]) >= 1.5 * distributed.WAIT_SECONDS


def test_the_image_has_both_targets_and_only_files_that_exist() -> None:
    text = (LAUNCH / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)[1:] == [
        ("base", "tpu"),
        ("base", "cuda"),
    ]
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
    extras = re.findall(r"\.\[(\w+)\]", text)
    setup = (ROOT / "setup.py").read_text()
    assert extras == ["tpu", "gpu"]
    # What runs in a cloud reads and writes gs://.
    assert re.findall(r'"(\w+)": \[.*\bGCS\]', setup) == ["gcs", *extras]
