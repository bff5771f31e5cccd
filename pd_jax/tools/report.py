"""Makes the report of a pipeline again from its workdir.

python -m pd_jax.tools.report --workdir DIR [--pipeline NAME] [--output FILE] [--json FILE]

Prints the table and writes one self-contained page. Nothing is trained, and nothing but the page
and the JSON file that was asked for is written.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from pd_jax import files
from pd_jax.errors import ReportError
from pd_jax.report import load, study, study_text, table, write_report
from pd_jax.tools import command, options


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after the page was written."""
    arguments = _parser().parse_args(argv)
    options.check_output(arguments.output)
    options.check_output(arguments.json, option="--json")
    workdir = epath.Path(arguments.workdir)
    name = arguments.pipeline or _only_pipeline(workdir)
    pipeline = load.load_pipeline(workdir, name)
    print(_FORMATS[arguments.format](workdir, pipeline))
    if arguments.json:
        files.write_json(arguments.json, _values(workdir, pipeline))
        print(f"numbers of pipeline {name}: {arguments.json}")
    path = write_report(workdir, name, output=arguments.output)
    print(f"report of pipeline {name}: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.report",
        description="Print the table of a pipeline's methods and write its self-contained report.",
    )
    parser.add_argument("--workdir", required=True, help="the workdir that the pipeline was run in")
    parser.add_argument(
        "--pipeline", help="the pipeline's name; needed where the workdir has several"
    )
    parser.add_argument(
        "--output",
        help="where to write the page (default: WORKDIR/report-NAME.html); outside the workdir it "
        "has no links to stage folders, so that it can be published",
    )
    parser.add_argument(
        "--format",
        choices=sorted(_FORMATS),
        default="text",
        help="how to print the table (default: text)",
    )
    parser.add_argument(
        "--json", help="also write the numbers, with commit, versions and machine, to this file"
    )
    return parser


def _only_pipeline(workdir: epath.Path) -> str:
    names = load.pipeline_names(workdir)
    if len(names) == 0:
        raise ReportError(
            f"{workdir / 'pipelines'} has no pipeline to report on; run python -m pd_jax.main with "
            f"--workdir={workdir} first, or give another --workdir"
        )
    if len(names) > 1:
        raise ReportError(
            f"{workdir} has {len(names)} pipelines; choose one with --pipeline ({', '.join(names)})"
        )
    return names[0]


def _values(workdir: epath.Path, pipeline: load.Pipeline) -> dict[str, Any]:
    if pipeline.study is not None:
        return study_text.as_json(study.load_results(workdir, pipeline))
    return table.as_json(table.make_table(pipeline)) | study_text.provenance(pipeline)


def _json(workdir: epath.Path, pipeline: load.Pipeline) -> str:
    return json.dumps(_values(workdir, pipeline), indent=2, ensure_ascii=False)


def _text(workdir: epath.Path, pipeline: load.Pipeline) -> str:
    if pipeline.study is not None:
        return study_text.as_text(study.load_results(workdir, pipeline))
    return table.as_text(table.make_table(pipeline))


def _markdown(workdir: epath.Path, pipeline: load.Pipeline) -> str:
    if pipeline.study is not None:
        return study_text.as_markdown(study.load_results(workdir, pipeline))
    return table.as_markdown(table.make_table(pipeline))


_FORMATS = {"text": _text, "markdown": _markdown, "json": _json}


if __name__ == "__main__":
    sys.exit(command.run(main))
