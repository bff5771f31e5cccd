"""Every comparison with a peer, one after the other, and the page of their results.

python -m benchmarks.all            # measures all, then writes benchmarks/README.md
python -m benchmarks.all --page     # writes the page from the results at hand
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import side_by_side
from pd_jax import files

NAMES = ("train", "label", "predict", "input", "many", "startup")
PAGE = pathlib.Path(__file__).parent / "README.md"
_HEAD = """# Beside what a user would pick instead

Made by `python -m benchmarks.all`. Each row was measured in one run: every repetition runs each
peer once on equal work, in an order that turns. A cell says how often as fast as that peer we
are: the median over repetitions of our rate over its rate, and in brackets the least and the
greatest; above 1 we are faster. Stock is transformers as its example scripts train (padded to
128, logits at every position, plain AdamW); tuned gathers the masked positions, groups rows by
length, pads to the longest, updates by the fused AdamW and keeps freed memory, as ours does; each
module's docstring says more.
Plans for hardware that was not at hand: [plans.md](plans.md).
"""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page of some results, a table for each."""
    parts = [_HEAD]
    for result in results.values():
        machine = result["machine"]
        versions = ", ".join(f"{name} {held}" for name, held in machine["versions"].items())
        peers = list(dict.fromkeys(name for case in result["cases"] for name in case["peers"]))
        mine, theirs = peers[0], peers[1:]
        parts.append(f"\n## {result['title']}\n\n    {result['command']}\n")
        parts.append(
            f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average'][0]} "
            f"before and {result['load_average_after'][0]} after; {versions}.\n"
        )
        header = ["case", f"{mine}, a second", *(f"times {name}" for name in theirs)]
        parts += [_line(header), _line(["-"] * len(header))]
        parts += [_row(case, mine, theirs) for case in result["cases"]]
        skipped = {name: why for case in result["cases"] for name, why in case["skipped"].items()}
        if not result["whole"]:
            parts.append("\nThis run was interrupted: the command has more cases.")
        if "note" in result:  # written by hand, where the script has changed since
            parts.append(f"\n{result['note']}")
        parts += [f"\nSkipped: {name} ({why})." for name, why in skipped.items()]
    return "\n".join(parts) + "\n"


def _row(case: Mapping[str, Any], mine: str, theirs: list[str]) -> str:
    rate = case["peers"][mine]["speed"]["median"]
    cells = [
        case["name"],
        f"{rate:,.0f} {case['unit']}" if rate > 10 else f"{rate:.3g} {case['unit']}",
    ]
    for name in theirs:
        if name not in case["peers"]:
            cells.append("skipped" if name in case["skipped"] else "")
            continue
        times = case["peers"][name]["times"]
        cells.append(f"{times['median']:.2f} ({times['least']:.2f} to {times['greatest']:.2f})")
    return _line(cells)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_page() -> None:
    """Writes the page of the results that are there."""
    paths = {name: side_by_side.RESULTS / f"{name}.json" for name in NAMES}
    results = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    files.write_text(PAGE, page(results))
    print(f"{PAGE}: {len(results)} tables")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all")
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    return parser


def main() -> int:
    """Returns 0 after all were measured and the page is written."""
    options = _parser().parse_args()
    for name in () if options.page else NAMES:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
