"""Launchers: each is rendered by --dry-run and held to what its scheduler requires."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("env/*.sh"), LAUNCH / "slurm.sbatch"])
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
    assert "is no number of processes" in done.stderr


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
        *("bash", "launch/with_env.sh", "gpu"),
        *(".venv/bin/python", "-m", "pd_jax.main", "--distributed=on"),
        *JOB,
    ]


def test_slurm_gives_its_tasks_the_cores_that_sbatch_was_asked_for() -> None:
    done = bash("launch/slurm.sbatch", *JOB, "--dry-run", SLURM_CPUS_PER_TASK="3")
    assert " srun --kill-on-bad-exit=1 --cpus-per-task=3 bash " in done.stderr
    assert "#SBATCH --cpus-per-task=8\n" in (LAUNCH / "slurm.sbatch").read_text()


def fake_commands(folder: pathlib.Path, **scripts: str) -> str:
    """Returns a PATH on which these commands do what they are told to."""
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(0, "0", False), (2, "0", False), (75, "0", True), (134, "3", True), (134, "50", False)],
)
def test_slurm_requeues_what_the_same_command_mends(
    status: int, restarts: str, requeued: bool, tmp_path: pathlib.Path
) -> None:
    for folder in ("launch", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(LAUNCH / "functions.sh", tmp_path / "launch")
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / ".venv/bin/python").symlink_to("/bin/true")
    path = fake_commands(tmp_path, srun=f"exit {status}", scontrol='echo "$@" >requeued')
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


TPU = ("--name=n", "--zone=z", "--slices=2", "--spot")


def test_tpu_create_asks_for_all_slices_at_once() -> None:
    (create,) = planned("launch/tpu_vm.sh", "create", *TPU, "--project=p")
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "n"]
    assert {"--zone=z", "--project=p", "--node-count=2", "--node-prefix=n", "--spot"} <= set(create)
    assert any(word.startswith("--accelerator-type=") for word in create)
    assert any(word.startswith("--runtime-version=") for word in create)


def test_tpu_run_starts_every_host_of_every_slice_and_is_repeated() -> None:
    commands = planned("launch/tpu_vm.sh", "run", *TPU, *JOB)
    assert [command[5] for command in commands] == ["n-0", "n-1"]
    for command in commands:
        assert "--worker=all" in command
        remote = command[-1].removeprefix("--command=")
        assert "flock --nonblock run.lock bash launch/repeat.sh" in remote
        assert "with_env.sh tpu_slices" in remote
        assert all(flag in remote for flag in JOB)
        assert not any(flag in remote for flag in TPU)


def test_tpu_resume_is_delete_create_wait_setup_run() -> None:
    commands = planned("launch/tpu_vm.sh", "resume", *TPU, *JOB)
    verbs = [next(word for word in command if word in VERBS) for command in commands]
    assert verbs == [
        *("delete", "create", "describe", "archive"),
        *("scp", "scp", "ssh", "ssh", "ssh", "ssh"),
    ]


VERBS = ("delete", "create", "describe", "archive", "scp", "ssh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly", *TPU), "fly is no verb"),
        (("run", *TPU, JOB[0], "--workdir=/here"), "--workdir=gs://... is missing"),
        (("create", "--name=n"), "--zone=... is missing"),
    ],
)
def test_tpu_refuses(arguments: tuple[str, ...], message: str) -> None:
    done = bash("launch/tpu_vm.sh", *arguments, "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr


def test_tpu_wait_ends_when_the_slice_is_there_or_lost(tmp_path: pathlib.Path) -> None:
    there = fake_commands(tmp_path, gcloud="echo ACTIVE")
    assert bash("launch/tpu_vm.sh", "wait", *TPU, PATH=there).returncode == 0
    lost = fake_commands(tmp_path, gcloud="echo SUSPENDED")
    done = bash("launch/tpu_vm.sh", "wait", *TPU, PATH=lost)
    assert done.returncode == 2
    assert "n is SUSPENDED" in done.stderr


GKE = (
    "--name=job",
    "--image=registry/pd_jax:1",
    "--accelerator=tpu-v5-lite-podslice",
    "--topology=4x4",
    "--hosts=4",
)


def test_gke_manifest_has_what_its_kinds_require() -> None:
    done = bash("launch/gke.sh", "--dry-run", *GKE, "--slices=2", "--queue=tpus", *JOB, ODD)
    assert done.returncode == 0, done.stderr
    assert "${" not in done.stdout
    manifest = yaml.safe_load(done.stdout)
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    assert manifest["metadata"]["name"] == "job"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpus"}
    (slices,) = manifest["spec"]["replicatedJobs"]
    assert slices["replicas"] == 2
    job = slices["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    # Kubernetes accepts a podFailurePolicy with this restart policy only.
    assert pod["restartPolicy"] == "Never"
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    (container,) = pod["containers"]
    assert container["name"] == job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]
    assert container["image"] == "registry/pd_jax:1"
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"] == ["bash", "launch/with_env.sh", "tpu_slices"]
    assert container["args"][:4] == ["python", "-m", "pd_jax.main", "--distributed=on"]
    assert container["args"][4:] == [*JOB, ODD]


def test_gke_gives_the_manifest_to_kubectl(tmp_path: pathlib.Path) -> None:
    path = fake_commands(tmp_path, kubectl=f'cat >"{tmp_path}/manifest"; echo "$@"')
    done = bash("launch/gke.sh", *GKE, *JOB, PATH=path)
    assert done.stdout.split() == ["apply", "-f", "-"]
    assert yaml.safe_load((tmp_path / "manifest").read_text())["kind"] == "JobSet"


def test_xpk_passes_the_job_as_one_command() -> None:
    (command,) = planned(
        "launch/xpk.sh",
        *("--name=n", "--cluster=c", "--image=i", "--type=v5litepod-16", "--zone=z"),
        *JOB,
    )
    assert command[:3] == ["xpk", "workload", "create"]
    flags = dict(word.split("=", 1) for word in command[3:])
    assert flags["--tpu-type"] == "v5litepod-16"
    assert flags["--max-restarts"] == "100"
    assert "75" in flags["--restart-on-exit-codes"].split(",")
    assert flags["--zone"] == "z"
    assert "--project" not in flags
    assert shlex.split(flags["--command"])[-len(JOB) :] == list(JOB)


def test_sky_job_recovers_and_gets_its_flags() -> None:
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["strategy"] in ("FAILOVER", "EAGER_NEXT_REGION")
    assert {"name", "num_nodes", "workdir", "envs", "file_mounts", "setup", "run"} <= set(task)
    (command,) = planned("launch/sky.sh", "--name=n", "--bucket=b", "--nodes=2", JOB[0], ODD)
    assert command[:4] == ["sky", "jobs", "launch", "launch/sky.yaml"]
    given = dict(word.split("=", 1) for word in command if re.match("[A-Z]+=", word))
    assert set(given) <= set(task["envs"])
    assert shlex.split(given["ARGUMENTS"]) == [JOB[0], ODD]


def test_sky_installs_a_python_where_the_image_has_none_of_ours(tmp_path: pathlib.Path) -> None:
    for folder in ("launch", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(LAUNCH / "functions.sh", tmp_path / "launch")
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / ".venv/bin/python").symlink_to("/bin/true")
    setup = yaml.safe_load((LAUNCH / "sky.yaml").read_text())["setup"]
    olds = dict.fromkeys(("python3", "python3.11", "python3.12", "python3.13"), "exit 1")
    path = fake_commands(tmp_path, **olds, sudo='echo "$@" >>asked')
    done = subprocess.run(["bash", "-c", setup], cwd=tmp_path, env={"PATH": path})
    assert done.returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["apt-get update", "apt-get install --yes python3.11 python3.11-venv"]
    (tmp_path / "asked").unlink()
    path = fake_commands(tmp_path, **{"python3.12": "exit 0"})
    assert subprocess.run(["bash", "-c", setup], cwd=tmp_path, env={"PATH": path}).returncode == 0
    assert not (tmp_path / "asked").exists()


def test_sky_processes_find_each_other(tmp_path: pathlib.Path) -> None:
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    for folder in ("launch", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("repeat.sh", "with_env.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch")
    shutil.copytree(LAUNCH / "env", tmp_path / "launch/env")
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\nenv | grep PD_JAX_\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", task["run"]],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
            "ARGUMENTS": shlex.join([JOB[0], ODD]),
        },
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert {"PD_JAX_COORDINATOR=10.0.0.1:8476", "PD_JAX_PROCESSES=2", "PD_JAX_PROCESS_ID=1"} <= set(
        lines
    )
    assert lines[-3:] == ["--workdir=/runs/pd_jax", JOB[0], ODD]


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
