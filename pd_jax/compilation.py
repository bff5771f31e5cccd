"""The persistent compilation cache: a step is compiled once on a machine, not once a run."""

import contextlib
import os
import pathlib

import jax

from pd_jax import files

MOST_BYTES = 2 << 30
"""The most that a folder of compiled programs holds when a process starts."""

_VARIABLE = "PD_JAX_CACHE"


def use_cache() -> None:
    """Keeps compiled programs in `$PD_JAX_CACHE`, or `~/.cache/pd_jax/xla`; empty keeps none.

    Of a folder that holds more than `MOST_BYTES`, what was longest unused is removed now; a
    bucket's is left as it is.
    """
    folder = os.environ.get(_VARIABLE)
    if folder is None:
        with contextlib.suppress(RuntimeError):  # a container's user may have no home
            folder = str(pathlib.Path.home() / ".cache" / "pd_jax" / "xla")
    if folder:
        if not files.is_remote(folder):
            _remove_oldest(pathlib.Path(folder))
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _remove_oldest(folder: pathlib.Path) -> None:
    """Removes the programs that were longest unused, until the rest has `MOST_BYTES` at most.

    jax's own limit (`jax_compilation_cache_max_size`) needs another package, and keeps no program
    any more in a folder that holds one from before the limit was set or of a process that was
    killed while it wrote one.
    """
    with contextlib.suppress(OSError):  # none yet, or another process removes them at this moment
        found = [(path, path.stat()) for path in folder.glob("*-cache")]
        # Many file systems note that a file was read once a day, some never.
        found.sort(key=lambda one: max(one[1].st_atime, one[1].st_mtime), reverse=True)
        held = 0
        for path, facts in found:
            held += facts.st_size
            if held > MOST_BYTES:
                path.unlink()
