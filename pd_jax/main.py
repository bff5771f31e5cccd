"""Runs a pipeline: `python -m pd_jax.main --config=FILE[:arg] --workdir=DIR [--stages=a,b]
[--config.x.y=z]`.

Run the same command again and it continues where it stopped; stages that are done are not done
again.
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
    "changed", False, "Go on in a workdir that was made with another config or other versions."
)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "How many stages to run at once, in processes that share the cores.", lower_bound=1
)
_VMAP = flags.DEFINE_integer(
    "vmap",
    1,
    "How many training stages to train by one program, where they differ in seed, learning rate "
    "and first weights alone.",
    lower_bound=1,
)
_ESTIMATE = flags.DEFINE_bool(
    "estimate", False, "Say how long what is left will take, and run nothing."
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join other processes (auto: where a launcher says so).",
)
_OF_A_CONFIG = {"<module>", "get_config"}
"""What runs when a config's file is loaded."""


def _main(argv: Sequence[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise app.UsageError("--config and --workdir are needed")
    if not flags.FLAGS["verbosity"].present:
        # Orbax tells what it does to each file, and its threads every fault, which saving raises.
        logging.set_verbosity(logging.FATAL)
    # Only now: a usage error should not wait for jax.
    from pd_jax.training.signals import Stopped, stop_on

    stop_on(signal.SIGTERM)
    try:
        _run(epath.Path(_WORKDIR.value))
    except Stopped as stopped:
        print(f"stopped by {stopped}; run the same command again to continue", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as fault:
        said = sentence_of(fault)
        if not said:
            raise
        print(f"error: {said}", file=sys.stderr)
        return EXIT_CODE
    return 0


def _run(workdir: epath.Path) -> None:
    """Runs the pipeline and reports on it, or only says how long it will take."""
    from pd_jax import estimate, pipeline, planning
    from pd_jax.config.reading import pipeline_from
    from pd_jax.parallel import distributed

    def say(line: str) -> None:
        if distributed.is_writer():
            print(line, flush=True)

    config = pipeline_from(_CONFIG.value)
    _set_up()
    if _ESTIMATE.value:
        found = estimate.estimate(config, planning.plan(config, workdir), said=say)
        print(estimate.as_text(found))
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
    """Joins the other processes; sets up memory, compilation cache and what may be said."""
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
        print(distributed.describe(), flush=True)
        if max(_JOBS.value, _VMAP.value) > 1:
            raise ConfigError(
                "--jobs and --vmap go with one process; leave them out on several hosts"
            )


def _report(config: "Pipeline", workdir: epath.Path) -> None:
    """Prints the table and the report's path, as far as the stages went."""
    from pd_jax import report
    from pd_jax.parallel import distributed

    done = any((workdir / "stages").glob("*/done.json")) if workdir.exists() else False
    if distributed.is_writer() and (config.report.rows or config.study) and done:
        page = report.write_report(workdir, config.name)
        print(report.table_text(workdir, config.name))
        print(f"report: {page}")


def _report_after(fault: Exception, config: "Pipeline", workdir: epath.Path) -> None:
    """Reports what was done before a fault; a fault of the report itself is only mentioned."""
    if no_space(fault):
        return
    try:
        _report(config, workdir)
    except PdError as second:
        print(f"warning: no report was written: {second}", file=sys.stderr)


def _flags(argv: list[str]) -> list[str]:
    """Returns the arguments that are no flags; a config that is not there, and a key that it lacks,
    end in one line.
    """
    _check_config_file(argv)
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as fault:  # as ConfigDict's overrides raise them
        # The config's file is run in here, too: a fault of its own keeps its traceback.
        if {frame.name for frame in traceback.extract_tb(fault.__traceback__)} & _OF_A_CONFIG:
            raise
        inner = fault.args[0]  # an AttributeError holds the KeyError that it began as
        said = inner.args[0] if isinstance(inner, Exception) else inner
        said = " ".join(str(said).split())
        print(f"error: a flag --config.KEY does not fit the config: {said}", file=sys.stderr)
        sys.exit(EXIT_CODE)


def _check_config_file(argv: list[str]) -> None:
    """Ends in one line where the config's file is not there, which absl tells by a traceback."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?")
    named = parser.parse_known_args(argv[1:])[0].config
    if named is None:  # not given, or without a value, which absl tells in one line
        return
    path = named.partition(":")[0]
    if not os.path.isfile(path):
        here = [str(found) for found in pathlib.Path("configs").glob("**/*.py")]
        print(f"error: --config={path}: no such file{did_you_mean(path, here)}", file=sys.stderr)
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # XLA's C++ notices are not the user's concern
    app.run(_main, flags_parser=_flags)
