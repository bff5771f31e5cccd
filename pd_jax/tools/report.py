"""Makes the report of a pipeline again from its workdir.

python -m pd_jax.tools.report --workdir DIR [--pipeline NAME] [--output FILE] [--json FILE]

Prints the table and writes one self-contained page. Nothing is trained, and nothing but the page
and the JSON file that was asked for is written. With --format json or markdown, standard output has
nothing but the table.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from etils import epath

from pd_jax import files
from pd_jax.errors import ConfigError, ReportError
from pd_jax.report import load, read_report
from pd_jax.report.formats import Report
from pd_jax.tools import command, options
from pd_jax.workdir import PIPELINES


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after the page was written."""
    arguments = _parser().parse_args(argv)
    options.check_output(arguments.output)
    options.check_output(arguments.json, option="--json")
    workdir = epath.Path(arguments.workdir)
    name = arguments.pipeline or _only_pipeline(workdir)
    record = workdir / PIPELINES / f"{name}.json"
    options.check_unread(arguments.output, [record])
    options.check_unread(arguments.json, [record], option="--json")
    if arguments.output and arguments.output == arguments.json:
        raise ConfigError(f"--output and --json are both {arguments.json}; name two files")
    print(f"reporting on pipeline {name} in {workdir}", file=sys.stderr)
    report = read_report(workdir, name)
    print(_FORMATS[arguments.format](report))
    told = sys.stdout if arguments.format == "text" else sys.stderr
    if arguments.json:
        files.write_json(arguments.json, report.as_json())
        print(f"numbers of pipeline {name}: {arguments.json}", file=told)
    path = report.write_page(arguments.output)
    print(f"report of pipeline {name}: {path}", file=told)
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
            f"{workdir / PIPELINES} has no pipeline to report on; run python -m pd_jax.main with "
            f"--workdir={workdir} first, or give another --workdir"
        )
    if len(names) > 1:
        raise ReportError(
            f"{workdir} has {len(names)} pipelines; choose one with --pipeline ({', '.join(names)})"
        )
    return names[0]


def _json(report: Report) -> str:
    return json.dumps(report.as_json(), indent=2, ensure_ascii=False)


_FORMATS: dict[str, Callable[[Report], str]] = {
    "text": lambda report: report.as_text(),
    "markdown": lambda report: report.as_markdown(),
    "json": _json,
}


if __name__ == "__main__":
    sys.exit(command.run(main))
