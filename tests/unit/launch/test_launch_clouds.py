"""Launchers of clouds: what each asks gcloud, Kubernetes, xpk and SkyPilot for."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.unit.launch.launching import JOB, LAUNCH, ODD, ROOT, bash, fake_commands, planned

TPU = ("--name=n", "--zone=z", "--slices=2", "--spot")
TYPE = "--type=v6e-16"


def test_tpu_create_asks_for_all_slices_at_once() -> None:
    (create,) = planned("launch/tpu_vm.sh", "create", *TPU, TYPE, "--project=p")
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "n"]
    assert {"--zone=z", "--project=p", "--node-count=2", "--node-prefix=n", "--spot"} <= set(create)
    assert "--accelerator-type=v6e-16" in create


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_tpu_software_is_that_of_the_type(kind: str, runtime: str) -> None:
    asked = ("launch/tpu_vm.sh", "create", *TPU, f"--type={kind}")
    assert f"--runtime-version={runtime}" in planned(*asked)[0]
    assert "--runtime-version=mine" in planned(*asked, "--runtime=mine")[0]


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
    commands = planned("launch/tpu_vm.sh", "resume", *TPU, TYPE, *JOB)
    verbs = [next(word for word in command if word in VERBS) for command in commands]
    assert verbs == [
        *("delete", "create", "describe", "archive"),
        *("scp", "scp", "ssh", "ssh", "ssh", "ssh"),
    ]


VERBS = ("delete", "create", "describe", "archive", "scp", "ssh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly", *TPU), "fly is not a verb"),
        (("run", *TPU, JOB[0], "--workdir=/here"), "--workdir=gs://... is missing"),
        (("create", "--name=n"), "--zone=... is missing"),
        (("create", *TPU), "--type=... is missing"),
        (("create", *TPU, "--type=abacus-8"), "name its software, too: --runtime=VERSION"),
        (("resume", *TPU, *JOB), "--type=... is missing"),
        (("resume", *TPU, TYPE, JOB[1]), "--config=... is missing"),
        (("resume", *TPU, TYPE, JOB[0]), "--workdir=gs://... is missing"),
        (("resume", *TPU, TYPE, *JOB, "--slices=two"), "--slices=two is not a number of slices"),
        (("delete", *TPU, "--slices=0"), "--slices=0 is not a number of slices"),
    ],
)
def test_tpu_refuses_before_it_does_anything(arguments: tuple[str, ...], message: str) -> None:
    done = bash("launch/tpu_vm.sh", *arguments, "--dry-run")
    assert done.returncode == 2
    assert message in done.stderr
    assert not any(line.startswith("+ ") for line in done.stderr.splitlines())


@pytest.mark.parametrize("verb", ["setup", "run"])
def test_tpu_says_what_the_shipped_commit_lacks(verb: str, tmp_path: pathlib.Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=b")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    def dry_run() -> subprocess.CompletedProcess[str]:
        flags = ("--config=mine.py:seeds=5", JOB[1], "--dry-run")
        return bash(str(tmp_path / "launch/tpu_vm.sh"), verb, *TPU, *flags)

    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / "mine.py").write_text("")
    git("init")
    git("add", "launch")
    git("commit", "-m", "one")
    assert dry_run().returncode == 2
    assert "error: --config=mine.py is not in the commit that hosts get" in dry_run().stderr
    git("add", "mine.py")
    git("commit", "-m", "two")
    assert "warning" not in dry_run().stderr
    assert dry_run().returncode == 0
    (tmp_path / "mine.py").write_text("changed")
    assert "warning: hosts get the last commit, without the changes" in dry_run().stderr
    assert dry_run().returncode == 0


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
    recovery = task["resources"]["job_recovery"]
    assert recovery["strategy"] in ("FAILOVER", "EAGER_NEXT_REGION")
    # A mistake of the user's, and 137, which SkyPilot ends the other nodes with, are final.
    assert recovery["max_restarts_on_errors"] == 0
    assert recovery["recover_on_exit_codes"] == [75, 143]
    # MOUNT has no appends.
    assert task["file_mounts"]["/runs"]["mode"] == "MOUNT_CACHED"
    assert {"name", "num_nodes", "workdir", "envs", "file_mounts", "setup", "run"} <= set(task)
    nodes = ("--nodes=2", "--workdir=gs://b/run")
    (command,) = planned("launch/sky.sh", "--name=n", "--bucket=b", *nodes, JOB[0], ODD)
    assert command[:4] == ["sky", "jobs", "launch", "launch/sky.yaml"]
    given = dict(word.split("=", 1) for word in command if re.match("[A-Z]+=", word))
    assert set(given) <= set(task["envs"])
    assert shlex.split(given["ARGUMENTS"]) == [JOB[0], ODD]
    assert given["WORKDIR"] == "gs://b/run"


def test_sky_nodes_share_no_mount() -> None:
    script = ["bash", LAUNCH / "sky.sh", "--dry-run", "--name=n", "--bucket=b", JOB[0]]
    alone = subprocess.run(script, capture_output=True, text=True)
    assert alone.returncode == 0 and "WORKDIR=/runs/pd_jax" in alone.stderr
    several = subprocess.run([*script, "--nodes=2"], capture_output=True, text=True)
    assert several.returncode == 2
    assert "error: --nodes=2 needs --workdir=gs://BUCKET/RUN" in several.stderr


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
            "WORKDIR": "gs://b/run",
        },
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert {"PD_JAX_COORDINATOR=10.0.0.1:8476", "PD_JAX_PROCESSES=2", "PD_JAX_PROCESS_ID=1"} <= set(
        lines
    )
    assert lines[-3:] == ["--workdir=gs://b/run", JOB[0], ODD]
