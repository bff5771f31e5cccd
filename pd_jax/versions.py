"""What a run depends on outside its config: code, interpreter, packages, machine."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from pd_jax import files, processes
from pd_jax.errors import StageError
from pd_jax.workdir import VERSIONS

_PACKAGES = (
    "pd_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "tokenizers",
)

_COMPUTE = ("pd_jax", "jax", "jaxlib", "flax", "optax", "numpy", "tokenizers")
"""What decides a stage's numbers and bytes; they may differ between two minor versions."""

_REPORTED = (
    "python",
    "orbax-checkpoint",
    "grain",
    "processor",
    "available_cores",
    "device",
    "devices",
    "processes",
)
"""What may change in the middle of a stage: the results stay the same, up to rounding. XLA divides
sums among the cores that a process may use.
"""


def versions() -> dict[str, Any]:
    """Returns versions by name, the commit of a checkout, the machine and its devices."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **found,
        **({"commit": commit()} if commit() else {}),
        "processor": processor(),
        "cores": os.cpu_count(),
        "available_cores": len(processes.available_cores()),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
    }


def check(folder: epath.Path, stage: str, *, changed: bool, say: Callable[[str], None]) -> None:
    """Compares the versions with those that started the stage in `folder`; reports differences.

    Raises:
      StageError: a package that decides its numbers had another minor version, and not `changed`:
        a stage continues bit for bit on the same versions only.
    """
    if not (folder / VERSIONS).exists():
        return
    before, now = files.read_json(folder / VERSIONS, StageError), versions()
    differ = [
        name for name in (*_COMPUTE, *_REPORTED) if name in before and before[name] != now.get(name)
    ]
    if not differ:
        return
    shown = "; ".join(f"{name} was {before[name]}, is {now.get(name)}" for name in differ)
    serious = [
        name
        for name in differ
        if name in _COMPUTE and _minor(before[name]) != _minor(now.get(name))
    ]
    if serious and not changed:
        raise StageError(
            f"stage {stage!r} was started with other versions ({shown}); install those, remove "
            f"{folder} to start again, or add --changed to continue, no longer bit for bit"
        )
    say(f"stage {stage}: continuing with other versions ({shown})")


def _minor(version: Any) -> list[str]:
    return str(version).split(".")[:2]


@functools.cache
def commit() -> str:
    """Returns the commit that this code was checked out from, followed by `+` where files differ
    from it; empty for an installed package.
    """
    folder = pathlib.Path(__file__).resolve().parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head or not _git(folder, "ls-files", "--", pathlib.Path(__file__).name):
        return ""
    return head + ("+" if _git(folder, "status", "--porcelain", "--", ".") else "")


def processor() -> str:
    """Returns the processor's name as the system gives it."""
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _git(folder: pathlib.Path, *words: str) -> str:
    try:
        ended = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
    except OSError:  # git is not installed
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""
