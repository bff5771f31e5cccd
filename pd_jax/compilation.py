"""The persistent compilation cache: a step is compiled once on a machine, not once a run."""

import contextlib
import os
import pathlib

import jax

_VARIABLE = "PD_JAX_CACHE"


def use_cache() -> None:
    """Keeps compiled programs in `$PD_JAX_CACHE`, or `~/.cache/pd_jax/xla`; empty keeps none."""
    folder = os.environ.get(_VARIABLE)
    if folder is None:
        with contextlib.suppress(RuntimeError):  # a container's user may have no home
            folder = str(pathlib.Path.home() / ".cache" / "pd_jax" / "xla")
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
