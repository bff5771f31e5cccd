"""Makes the report of a pipeline again, from its workdir.

python -m pd_jax.tools.report --workdir DIR [--pipeline NAME] [--output FILE]

Prints the table and writes one self-contained page. Nothing is trained, and nothing but the page is
written.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from etils import epath

from pd_jax.errors import ReportError
from pd_jax.report import load, table, write_report
from pd_jax.tools import command


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after the page was written."""
    parser = argparse.ArgumentParser(
        prog="python -m pd_jax.tools.report",
        description="Print the table of a pipeline's methods and write its self-contained report.",
    )
    parser.add_argument("--workdir", required=True, help="the workdir that the pipeline was run in")
    parser.add_argument(
        "--pipeline", help="the pipeline's name; needed where the workdir has several"
    )
    parser.add_argument(
        "--output", help="where to write the page (default: WORKDIR/report-NAME.html)"
    )
    parser.add_argument(
        "--format",
        choices=sorted(_FORMATS),
        default="text",
        help="how to print the table (default: text)",
    )
    arguments = parser.parse_args(argv)
    workdir = epath.Path(arguments.workdir)
    name = arguments.pipeline or _only_pipeline(workdir)
    print(_FORMATS[arguments.format](table.make_table(load.load_pipeline(workdir, name))))
    path = write_report(workdir, name, output=arguments.output)
    print(f"report of pipeline {name}: {path}")
    return 0


def _only_pipeline(workdir: epath.Path) -> str:
    names = load.pipeline_names(workdir)
    if len(names) == 0:
        raise ReportError(
            f"{workdir / 'pipelines'} has no pipeline to report on: run python -m pd_jax.main with "
            f"--workdir={workdir} first, or give another --workdir"
        )
    if len(names) > 1:
        raise ReportError(
            f"{workdir} has {len(names)} pipelines: choose one with --pipeline ({', '.join(names)})"
        )
    return names[0]


def _json(rows: table.Table) -> str:
    return json.dumps(table.as_json(rows), indent=2, ensure_ascii=False)


_FORMATS = {"text": table.as_text, "markdown": table.as_markdown, "json": _json}


if __name__ == "__main__":
    sys.exit(command.run(main))
