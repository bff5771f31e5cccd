"""Runs a pipeline: `python -m pd_jax.main --config=FILE[:arg] --workdir=DIR [--stages=a,b]
[--config.x.y=z]`.

Run the same command again and it continues where it stopped; finished stages are not repeated.
"""

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import cast

from absl import app, flags, logging
from etils import epath

from pd_jax.config import Pipeline, flag
from pd_jax.errors import EXIT_CODE, ConfigError, PdError, no_space, sentence_of
from pd_jax.progress import warn
from pd_jax.workdir import DONE, STAGES

_CONFIG = flag.define()
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


def _main(_: Sequence[str]) -> int:
    assert _WORKDIR.value is not None, "_flags ensures it"
    if not flags.FLAGS["verbosity"].present:
        # Orbax logs every file operation, and its threads log faults that saving raises anyway.
        logging.set_verbosity(logging.FATAL)
    # Only now: a usage error should not wait for jax.
    from pd_jax.signals import Stopped, stop_on

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
        planned = planning.plan(config, workdir, only=_STAGES.value)
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


def _report(config: Pipeline, workdir: epath.Path) -> None:
    """Prints the table of the stages that are done, and the report's path."""
    from pd_jax import files, report
    from pd_jax.parallel import distributed

    done = any((stage / DONE).exists() for stage in files.matching(workdir / STAGES, "*"))
    if distributed.is_writer() and (config.report.rows or config.study) and done:
        found = report.read_report(workdir, config.name)
        page = found.write_page()
        _tell(found.as_text())
        _tell(f"report: {page}")


def _report_after(fault: Exception, config: Pipeline, workdir: epath.Path) -> None:
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
        warn(f"no report was written: {second}")


def _tell(line: str) -> None:
    """Prints a line at once. If nothing reads it any more, as with `| head`, the work goes on."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The rest of the buffer has no reader either, and later lines go there, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flags(argv: list[str]) -> list[str]:
    """Parses the flags and returns the rest, the command's name. A fault in the flags ends with one
    line, a fault in the config's own code with its traceback.

    Both end with EXIT_CODE: a launcher that ran the command again would meet the same fault.
    """
    try:
        flag.parse(argv, flags.FLAGS)
        if _CONFIG.value is None or not _WORKDIR.value:
            raise ConfigError("--config and --workdir are needed; give both")
        if any("\ud800" <= letter <= "\udfff" for letter in _WORKDIR.value):
            raise ConfigError(f"--workdir={_WORKDIR.value!r} is not UTF-8; choose another name")
        return argv[:1]
    except ConfigError as fault:
        print(f"error: {fault}", file=sys.stderr)
    except Exception as fault:
        traceback.print_exception(fault)
    sys.exit(EXIT_CODE)


if __name__ == "__main__":
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # XLA's C++ notices are of no use to the user
    app.run(_main, flags_parser=_flags)
