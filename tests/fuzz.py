"""Fuzzes the parsers of external files.

python tests/fuzz.py --parser NAME --seconds N

Corrupts valid files, byte by byte and with knowledge of the format, and keeps those that reach new
lines of the code. A finding is anything but a documented refusal: another exception, more than
5 s or 256 MB for a small file, a program started, a file opened outside the parser's own folder.
Each is written to --output, together with its trace. Equal seeds give equal corruptions.
"""

import argparse
import faulthandler
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests.fuzzing.engine import Outcome, fuzz  # noqa: E402
from tests.fuzzing.parsers import PARSERS  # noqa: E402


def main() -> int:
    """Returns 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz.py", description=__doc__)
    parser.add_argument("--parser", default="all", choices=("all", *PARSERS), help="default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("fuzz-findings"))
    arguments = parser.parse_args()
    names = list(PARSERS) if arguments.parser == "all" else [arguments.parser]
    found, executions = 0, 0
    for name in names:
        outcome = fuzz(
            PARSERS[name], seed=arguments.seed, seconds=arguments.seconds, alive=_arm_against_hangs
        )
        executions += outcome.executions
        print(
            f"{name}: {outcome.executions:,} files, {outcome.refused:,} refused, "
            f"{outcome.lines:,} lines of pd_jax reached, {outcome.kept} files kept, "
            f"{len(outcome.findings)} findings",
            flush=True,
        )
        found += len(outcome.findings)
        _write(name, outcome, arguments.output)
    print(f"{executions:,} files for {len(names)} parsers, {found} findings")
    return 1 if found else 0


def _arm_against_hangs() -> None:
    """Ends this process, printing its stacks, if the next files take more than two minutes."""
    faulthandler.dump_traceback_later(120, exit=True)


def _write(name: str, outcome: Outcome, output: pathlib.Path) -> None:
    for number, finding in enumerate(outcome.findings.values()):
        output.mkdir(parents=True, exist_ok=True)
        path = output / f"{name}-{number}"
        path.with_suffix(".bin").write_bytes(finding.content)
        path.with_suffix(".txt").write_text(finding.trace)
        print(f"  {finding.where}: {finding.what} ({path}.bin)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
