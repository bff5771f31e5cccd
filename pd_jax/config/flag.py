"""Reads flags among which is a config file; a fault in them, or in the file, becomes a sentence.

`--config=FILE` or `--config=FILE:ARG` names it, and `--config.stages.teacher.seed=3` changes a key.
"""

import argparse
import os
import pathlib
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from pd_jax.errors import ConfigError, did_you_mean

_OF_A_CONFIG = {"<module>", "get_config"}
"""The functions that run when a config file is loaded."""
_WRAPPED = "Error whilst parsing config file"
"""How ml_collections' text for a fault in a config file begins."""


def define(
    values: flags.FlagValues = flags.FLAGS, argv: list[str] | None = None
) -> flags.FlagHolder[Any]:
    """Returns the flag `--config` among `values`, whose value is what the file returns; `argv`
    (default: the process's) has the keys that are changed.
    """
    return config_flags.DEFINE_config_file(
        "config",
        help_string="Config file of the pipeline, as FILE or FILE:ARG.",
        flag_values=values,
        sys_argv=argv,
    )


def load(named: str, overrides: Sequence[str]) -> Any:
    """Returns what the config file FILE or FILE:ARG returns, changed by `--config.x.y=z` flags;
    raises as `parse`.
    """
    argv = ["", f"--config={named}", *overrides]
    values = flags.FlagValues()
    held = define(values, argv)
    parse(argv, values)
    return held.value


def parse(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Parses a command's flags, a config file's among them, into `values`.

    Raises:
      ConfigError: the flags, or the config that they name, are at fault.
      Exception: what the config's own code raised, as it was.
    """
    named = _config_named(argv)
    try:
        left = values(argv)
        hasattr(values["config"].value, "stages")  # an OSError of its code comes on the first use
    except Exception as raised:
        fault = _unwrapped(raised)
        if message := _refusal(fault, named, argv, values):
            raise ConfigError(message) from None
        raise fault from None
    if len(left) > 1:
        raise ConfigError(f"unexpected argument {left[1]!r}; flags begin with --")


def _config_named(argv: Sequence[str]) -> str:
    """Returns the value of --config, or nothing; raises ConfigError where there is no such file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    named = parser.parse_known_args(argv[1:])[0].config
    if named is None:  # not given, or without a value, which absl reports in one line
        return ""
    path = named.partition(":")[0]
    if not os.path.isfile(path):
        here = [str(found) for found in pathlib.Path("configs").glob("**/*.py")]
        hint = did_you_mean(path, here) or "; check the path"
        raise ConfigError(f"--config={path}: no such file{hint}")
    return named


def _unwrapped(fault: BaseException) -> BaseException:
    """Returns what a config file raised, which ml_collections and absl turn into text."""
    while _WRAPPED in str(fault) and fault.__context__ is not None:
        fault = fault.__context__
    return fault


def _refusal(
    fault: BaseException, named: str, argv: Sequence[str], values: flags.FlagValues
) -> str:
    """Returns the sentence for a fault in the flags, or in the config that they name; empty where
    the config's own code is at fault.
    """
    message = " ".join(str(fault).split())
    if isinstance(fault, SyntaxError):
        return f"{fault.filename}, line {fault.lineno}: {fault.msg}; correct the file"
    if isinstance(fault, ModuleNotFoundError) and fault.name == "configs":
        return f"--config={named} imports configs, which is not here; run from the checkout"
    if isinstance(fault, flags.UnrecognizedFlagError):
        remedy = did_you_mean(fault.flagname, values) or "; see --help"
        return f"--{fault.flagname} is not a flag{remedy}"
    if isinstance(fault, flags.Error):
        return message
    if isinstance(fault, OSError):
        return f"--config={named}: {fault.__cause__ or message}"
    if isinstance(fault, ValueError):  # as configs refuse their arguments
        return f"--config={named}: {message}"
    if isinstance(fault, AttributeError) and fault.name == "get_config":
        return f"--config={named}: the file has no function get_config; write one"
    if isinstance(fault, TypeError) and message.startswith("get_config("):
        return f"--config={named}: {message}; write FILE:ARG if it takes an argument, else FILE"
    if {frame.name for frame in traceback.extract_tb(fault.__traceback__)} & _OF_A_CONFIG:
        return ""
    if isinstance(fault, (AttributeError, KeyError, TypeError)):  # as ConfigDict's overrides do
        inner = fault.args[0]  # an AttributeError holds the KeyError that it began as
        reason = str(inner.args[0] if isinstance(inner, Exception) else inner)
        overrides = " ".join(flag for flag in argv if flag.startswith("--config."))
        remedy = "; a flag changes only what the file writes out: add the key there"
        return f"{overrides or '--config.KEY'} does not fit the config: " + (
            " ".join(reason.split()) + ("" if "Did you mean" in reason else remedy)
        )
    return ""
