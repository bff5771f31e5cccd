"""Runs the jobs of a build on Apache Beam instead of in processes of this machine.

A shard is a pure function of its task, so Dataflow, Flink or Spark write the same bytes as one
process. Workers need pd_jax, and the folder and sources under paths that all of them can reach: a
copy of its own, whose files have other times, passes for a source that changed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pd_jax import processes
from pd_jax.errors import ConfigError, RecordsError


def run(
    job: processes.Job[processes.Task, Any],
    tasks: Sequence[processes.Task],
    *,
    options: Sequence[str],
    report: processes.Count,
) -> Iterator[tuple[processes.Task, Any]]:
    """Runs `job(task, count)` for every task and yields nothing: the files are the result.

    `options` are Beam's, `KEY=VALUE` or `KEY` (`runner=DataflowRunner`, `project=...`). A job's
    count of work is Beam's counter `pd_jax/bytes`; `report` is not called from other machines.

    Raises:
      ConfigError: where Beam is not installed, or does not know an option or its value.
      RecordsError: where the pipeline fails; the message ends with the job's own error.
    """
    del report
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as fault:
        raise ConfigError(
            f"Apache Beam cannot be imported ({fault}); install pd_jax[beam]"
        ) from None
    known = PipelineOptions([f"--{option}" for option in options])
    given = set(known.get_all_options(drop_default=True, retain_unknown_options=True))
    if unknown := given - set(known.get_all_options()):
        raise ConfigError(f"Beam does not know option {', '.join(sorted(unknown))}; correct --beam")
    try:
        pipeline = beam.Pipeline(options=known)
    except ValueError as fault:
        raise ConfigError(
            f"Beam rejects --beam {' '.join(options)} ({fault}); correct these options"
        ) from None
    spread = pipeline | "tasks" >> beam.Create(tasks) | "spread" >> beam.Reshuffle()
    _ = spread | "jobs" >> beam.Map(_do, job)
    try:
        pipeline.run().wait_until_finish()
    except Exception as fault:  # runners wrap a job's error in errors of their own
        raise RecordsError(
            f"the Beam pipeline failed: {str(fault).strip()}; run the same command again: finished "
            "shards are kept"
        ) from fault
    yield from ()


def _do(task: Any, job: processes.Job) -> int:
    """Returns 1, so that the pipeline's elements count the tasks done."""
    import apache_beam as beam

    counter = beam.metrics.Metrics.counter("pd_jax", "bytes")
    job(task, lambda amount: counter.inc(round(amount)))
    return 1
