"""The persistent compilation cache: a step is compiled once on a machine, not once a run."""

import os
import pathlib

import jax

_VARIABLE = "PD_JAX_CACHE"


def use_cache() -> None:
    """Keeps compiled programs in `$PD_JAX_CACHE`, or `~/.cache/pd_jax/xla`; empty keeps none."""
    default = pathlib.Path.home() / ".cache" / "pd_jax" / "xla"
    folder = os.environ.get(_VARIABLE, str(default))
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
