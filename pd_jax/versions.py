"""What a run depends on outside its config: code, interpreter, packages, machine."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax

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
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
    }


@functools.cache
def commit() -> str:
    """Returns the commit that this code was checked out from, `+` behind it where files differ from
    it; an empty text for an installed package.
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
    except OSError:  # no git here
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""
