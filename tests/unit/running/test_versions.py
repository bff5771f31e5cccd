"""A stage goes on with the versions that began it, or says what changed."""

import pytest
from etils import epath

from pd_jax import files, processes, versions
from pd_jax.errors import StageError
from pd_jax.workdir import VERSIONS


def check(folder, *, changed: bool = False, **before: str) -> list[str]:
    printed: list[str] = []
    files.write_json(folder / VERSIONS, versions.versions() | before)
    versions.check(epath.Path(folder), "pd", changed=changed, say=printed.append)
    return printed


def test_the_same_versions_need_no_word(tmp_path):
    assert check(tmp_path) == []
    versions.check(epath.Path(tmp_path / "new"), "pd", changed=False, say=pytest.fail)


def test_another_minor_version_is_refused_unless_the_user_goes_on(tmp_path):
    now = versions.versions()["jax"]
    with pytest.raises(StageError) as refusal:
        check(tmp_path, jax="0.9.4", device="abacus")
    message = str(refusal.value)
    assert f"stage 'pd' was started with other versions (jax was 0.9.4, is {now}; device" in message
    assert f"remove {tmp_path} to start again" in message
    (line,) = check(tmp_path, changed=True, jax="0.9.4")
    assert line == f"stage pd: continuing with other versions (jax was 0.9.4, is {now})"


def test_a_patch_or_another_device_is_only_said(tmp_path):
    now = versions.versions()["jax"]
    patch = ".".join([*now.split(".")[:2], "999"])
    assert check(tmp_path, jax=patch) == [
        f"stage pd: continuing with other versions (jax was {patch}, is {now})"
    ]
    (line,) = check(tmp_path, device="abacus")
    assert "device was abacus, is " in line


def test_other_cores_are_said_whose_sums_are_rounded_otherwise(tmp_path):
    now = versions.versions()["available_cores"]
    assert now == len(processes.available_cores())
    (line,) = check(tmp_path, processor="Abacus", available_cores=now + 1)
    assert "processor was Abacus, is " in line
    assert f"available_cores was {now + 1}, is {now}" in line
