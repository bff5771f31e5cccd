"""Where compiled programs are cached."""

import pathlib

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
