"""Where compiled programs are cached."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from pd_jax import compilation


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What jax is told."""
    told: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    return told


def test_a_user_without_a_home_has_the_cache_that_is_named_or_none(
    chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def home() -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", home)
    monkeypatch.delenv("PD_JAX_CACHE")
    compilation.use_cache()
    assert chosen == {}
    monkeypatch.setenv("PD_JAX_CACHE", str(tmp_path))
    compilation.use_cache()
    assert chosen["jax_compilation_cache_dir"] == str(tmp_path)


def test_an_empty_name_keeps_none_and_no_name_the_users(
    chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("PD_JAX_CACHE", "")
    compilation.use_cache()
    assert chosen == {}
    monkeypatch.delenv("PD_JAX_CACHE")
    compilation.use_cache()
    assert chosen["jax_compilation_cache_dir"] == str(tmp_path / ".cache/pd_jax/xla")


def test_programs_longest_unused_give_way(
    chosen: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "programs"
    monkeypatch.setenv("PD_JAX_CACHE", str(folder))
    compilation.use_cache()  # there is no folder yet
    folder.mkdir()
    for name, read, written in (
        ("old-cache", 1, 1),
        ("new-cache", 4, 4),
        ("read-cache", 5, 2),
        ("notes.txt", 0, 0),
    ):
        (folder / name).write_bytes(bytes(1000))
        os.utime(folder / name, (read, written))
    compilation.use_cache()
    assert len(list(folder.iterdir())) == 4
    monkeypatch.setattr(compilation, "MOST_BYTES", 2500)
    compilation.use_cache()
    assert {path.name for path in folder.iterdir()} == {"new-cache", "read-cache", "notes.txt"}
    assert chosen["jax_compilation_cache_dir"] == str(folder)


def test_what_jax_keeps_has_the_name_that_gives_way(tmp_path: pathlib.Path) -> None:
    program = (
        "import jax; from pd_jax import compilation; compilation.use_cache(); "
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0); "
        "jax.jit(lambda x: x + 1)(1.0)"
    )
    named = os.environ | {"PD_JAX_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=named, check=True)
    kept = list(tmp_path.iterdir())
    assert kept and all(path.name.endswith("-cache") for path in kept)
