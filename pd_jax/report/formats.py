"""A pipeline's report in every format: text, Markdown, JSON, and a page of its own.

It is a table of methods, or of a study its figures and the answers to its claims.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from etils import epath

from pd_jax import files
from pd_jax.report import load, page, study, study_text, table

_ENVIRONMENT = ("commit", "processor", "cores", "device", "devices", "python", "jax", "pd_jax")


@dataclasses.dataclass(frozen=True)
class Report:
    """What there is to report of a pipeline, as read from its workdir.

    Attributes:
      pipeline: what is reported on.
      as_text: returns the table for a terminal.
      as_markdown: returns the same as Markdown.
      as_json: returns the numbers, with commit, versions and machine.
      as_page: returns the page, stage folders linked below a path, or not at all for None.
    """

    workdir: epath.Path
    pipeline: load.Pipeline
    as_text: Callable[[], str]
    as_markdown: Callable[[], str]
    as_json: Callable[[], dict[str, Any]]
    as_page: Callable[[str | None], str]

    def write_page(self, output: epath.PathLike | None = None) -> epath.Path:
        """Writes the page and returns its path: `WORKDIR/report-NAME.html` if not given."""
        path = epath.Path(output or self.workdir / f"report-{self.pipeline.name}.html")
        files.write_text(path, self.as_page(_base(self.workdir, path.parent)))
        return path


def read_report(workdir: epath.PathLike, name: str) -> Report:
    """Returns the report of the pipeline `name`.

    Raises:
      ReportError: the pipeline was not run in this workdir, or a file there is damaged.
    """
    pipeline = load.load_pipeline(workdir, name)
    if pipeline.study is not None:
        module, content = study_text, study.load_results(epath.Path(workdir), pipeline)
        render = partial(page.render_study, content)
    else:
        module, content = table, table.make_table(pipeline)
        render = partial(page.render, pipeline, content)

    def as_json() -> dict[str, Any]:
        return {**_provenance(pipeline), **module.as_json(content)}

    return Report(
        epath.Path(workdir),
        pipeline,
        as_text=partial(module.as_text, content),
        as_markdown=partial(module.as_markdown, content),
        as_json=as_json,
        as_page=render,
    )


def _provenance(pipeline: load.Pipeline) -> dict[str, Any]:
    """Returns where a pipeline's numbers come from: command, versions, machine, seconds."""
    stages = [stage for stage in pipeline.stages.values() if stage.done]
    return {
        "name": pipeline.name,
        "command": pipeline.command,
        "environment": _environment(stages),
        "seconds": round(sum(stage.done.seconds for stage in stages if stage.done), 1),
        "stages": {"done": len(stages), "of": len(pipeline.stages)},
    }


def _environment(stages: Sequence[load.Stage]) -> dict[str, Any]:
    """Returns versions; where stages differ, all of a key's values."""
    found: dict[str, list[Any]] = {}
    for stage in stages:
        for key in _ENVIRONMENT:
            value = stage.versions.get(key)
            if value is not None and value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _base(workdir: epath.Path, folder: epath.Path) -> str | None:
    """Returns the path from a page in `folder` to the workdir; None for a page outside of it.

    Such a page may be published; its links would lead nowhere, and reveal this machine's folders.
    """
    if not files.is_remote(folder) and not files.is_remote(workdir):
        folder, workdir = (epath.Path(os.path.abspath(path)) for path in (folder, workdir))
    places = (folder, *folder.parents)
    return "../" * places.index(workdir) if workdir in places else None
