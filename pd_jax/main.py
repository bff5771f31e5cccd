"""Runs a pipeline: `python -m pd_jax.main --config=FILE[:arg] --workdir=DIR [--stages=a,b]
[--config.x.y=z]`.

Run the same command again and it continues where it stopped; finished stages are not repeated.
"""

import argparse
import os
import pathlib
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from pd_jax.errors import EXIT_CODE, ConfigError, PdError, did_you_mean, no_space, sentence_of

if TYPE_CHECKING:
    from pd_jax.config import Pipeline

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Config file of the pipeline, as FILE or FILE:arg."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder (local or gs://) for stages, records and the report."
)
_STAGES = flags.DEFINE_list(
    "stages", [], "Names of the stages to run; by default all that are not done."
)
_CHANGED = flags.DEFINE_bool(
    "changed", False, "Continue in a workdir that was made with another config or other versions."
)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "How many stages to run at once, in processes that share the cores.", lower_bound=1
)
_VMAP = flags.DEFINE_integer(
    "vmap",
    1,
    "How many training stages to train in one program, where they differ only in seed, learning "
    "rate and first weights.",
    lower_bound=1,
)
_ESTIMATE = flags.DEFINE_bool(
    "estimate", False, "Estimate how long the remaining stages will take, and run nothing."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join other processes (auto: if a launcher started several).",
)
_OF_A_CONFIG = {"<module>", "get_config"}
"""The functions that run when a config file is loaded."""
_WRAPPED = "Error whilst parsing config file"
"""How ml_collections' text for a fault in a config file begins."""


def _main(_: Sequence[str]) -> int:
    assert _WORKDIR.value is not None, "_flags ensures it"
    if not flags.FLAGS["verbosity"].present:
        # Orbax logs every file operation, and its threads log faults that saving raises anyway.
        logging.set_verbosity(logging.FATAL)
    # Only now: a usage error should not wait for jax.
    from pd_jax.training.signals import Stopped, stop_on

    stop_on(signal.SIGTERM)
    try:
        _run(_WORKDIR.value)
    except Stopped as stopped:
        print(f"stopped by {stopped}; run the same command again to continue", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as fault:
        message = sentence_of(fault)
        if not message:
            raise
        print(f"error: {message}", file=sys.stderr)
        return EXIT_CODE
    return 0


def _run(folder: str) -> None:
    """Runs the pipeline and reports on it, or only estimates how long it will take."""
    from pd_jax import estimate, pipeline, planning
    from pd_jax.config.reading import check_scheme, pipeline_from
    from pd_jax.parallel import distributed

    def say(line: str) -> None:
        if distributed.is_writer():
            _tell(line)

    config = pipeline_from(_CONFIG.value)
    check_scheme(folder, "--workdir")
    workdir = epath.Path(folder)
    _set_up()
    if _ESTIMATE.value:
        planning.check_names(config, _STAGES.value)
        planned = planning.plan(config, workdir)
        found = estimate.estimate(config, planned, only=_STAGES.value, say=say)
        _tell(estimate.as_text(found))
        return
    try:
        with distributed.leaving_with_the_lost():
            pipeline.run(
                config,
                workdir,
                only=_STAGES.value,
                changed=_CHANGED.value,
                jobs=_JOBS.value,
                vmap=_VMAP.value,
                command=f"python -m pd_jax.main {shlex.join(sys.argv[1:])}",
                say=say,
            )
    except Exception as fault:
        _report_after(fault, config, workdir)
        raise
    _report(config, workdir)


def _set_up() -> None:
    """Joins the other processes; sets up memory, compilation cache and logging."""
    import jax

    from pd_jax import allocation, compilation, jobs
    from pd_jax.parallel import distributed
    from pd_jax.training.checkpoint import quiet_failed_saves

    if not _ESTIMATE.value:
        jobs.check_platforms(_JOBS.value)
    quiet_failed_saves()
    allocation.keep_memory()
    distributed.initialise(cast(distributed.Mode, _DISTRIBUTED.value))
    compilation.use_cache()
    if _JOBS.value > 1 and not _ESTIMATE.value:
        # The stages' processes need the accelerators; this one only waits for them.
        jax.config.update("jax_platforms", "cpu")
    if jax.process_count() > 1:
        _tell(distributed.describe())
        if max(_JOBS.value, _VMAP.value) > 1:
            raise ConfigError(
                "--jobs and --vmap work with one process only; leave them out on several hosts"
            )


def _report(config: "Pipeline", workdir: epath.Path) -> None:
    """Prints the table of the stages that are done, and the report's path."""
    from pd_jax import report
    from pd_jax.parallel import distributed

    done = any((workdir / "stages").glob("*/done.json")) if workdir.exists() else False
    if distributed.is_writer() and (config.report.rows or config.study) and done:
        page = report.write_report(workdir, config.name)
        _tell(report.table_text(workdir, config.name))
        _tell(f"report: {page}")


def _report_after(fault: Exception, config: "Pipeline", workdir: epath.Path) -> None:
    """Reports what was done before a fault; a fault of the report itself is only mentioned.

    Not where the workdir is another config's, whose results would look like this one's.
    """
    from pd_jax.record import Record

    if no_space(fault):
        return
    try:
        if Record(workdir, config, "").is_kept():
            _report(config, workdir)
    except PdError as second:
        print(f"warning: no report was written: {second}", file=sys.stderr)


def _tell(line: str) -> None:
    """Prints a line at once. If nothing reads it any more, as with `| head`, the work goes on."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The rest of the buffer has no reader either, and later lines go there, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flags(argv: list[str]) -> list[str]:
    """Returns the arguments that are not flags. A fault in the flags ends with one line, a fault in
    the config's own code with its traceback.

    Both end with EXIT_CODE: a launcher that ran the command again would meet the same fault.
    """
    named = _config_named(argv)
    try:
        left = flags.FLAGS(argv)
        if len(left) > 1:
            raise flags.Error(f"unexpected argument {left[1]!r}; flags begin with --")
        if _CONFIG.value is None or _WORKDIR.value is None:
            raise flags.Error("--config and --workdir are needed; give both")
        if any("\ud800" <= letter <= "\udfff" for letter in _WORKDIR.value):
            raise flags.Error(f"--workdir={_WORKDIR.value!r} is not UTF-8; choose another name")
        hasattr(_CONFIG.value, "stages")  # an OSError of the config's code comes on its first use
        return left
    except Exception as raised:
        fault = _unwrapped(raised)
        if message := _refusal(fault, named):
            print(f"error: {message}", file=sys.stderr)
        else:
            traceback.print_exception(fault)
        sys.exit(EXIT_CODE)


def _unwrapped(fault: BaseException) -> BaseException:
    """Returns what a config file raised, which ml_collections and absl turn into text."""
    while _WRAPPED in str(fault) and fault.__context__ is not None:
        fault = fault.__context__
    return fault


def _refusal(fault: BaseException, named: str) -> str:
    """Returns the sentence for a fault in the flags, or in the config that they name; empty where
    the config's own code is at fault.
    """
    message = " ".join(str(fault).split())
    if isinstance(fault, SyntaxError):
        return f"{fault.filename}, line {fault.lineno}: {fault.msg}; correct the file"
    if isinstance(fault, ModuleNotFoundError) and fault.name == "configs":
        return f"--config={named} imports configs, which is not here; run from the checkout"
    if isinstance(fault, flags.UnrecognizedFlagError):
        remedy = did_you_mean(fault.flagname, flags.FLAGS) or "; see --help"
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
        named = " ".join(flag for flag in sys.argv if flag.startswith("--config."))
        remedy = "; a flag changes only what the file writes out: add the key there"
        return f"{named or '--config.KEY'} does not fit the config: {' '.join(reason.split())}" + (
            "" if "Did you mean" in reason else remedy
        )
    return ""


def _config_named(argv: list[str]) -> str:
    """Returns the value of --config, or nothing; ends with one line where there is no such file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    named = parser.parse_known_args(argv[1:])[0].config
    if named is None:  # not given, or without a value, which absl reports in one line
        return ""
    path = named.partition(":")[0]
    if not os.path.isfile(path):
        here = [str(found) for found in pathlib.Path("configs").glob("**/*.py")]
        hint = did_you_mean(path, here) or "; check the path"
        print(f"error: --config={path}: no such file{hint}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    return named


if __name__ == "__main__":
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # XLA's C++ notices are of no use to the user
    app.run(_main, flags_parser=_flags)
