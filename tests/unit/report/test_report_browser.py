"""The page in a real browser: no error in its console, no text upon text, and tables that sort."""

import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from pd_jax.report import read_report
from tests.unit.report import studies

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SILENT = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
)
PROBE = """
const found = {overlaps: [], outside: [], drawn: 0};
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  if (frame.width === 0) continue;
  found.drawn += 1;
  const texts = [...svg.querySelectorAll("text")].map(
    (text) => [text.lastChild.textContent, text.getBoundingClientRect()]);
  texts.forEach(([name, box], i) => {
    if (box.left < frame.left - 3 || box.right > frame.right + 3) found.outside.push(name);
    for (const [other, next] of texts.slice(i + 1)) {
      const wide = Math.min(box.right, next.right) - Math.max(box.left, next.left);
      const high = Math.min(box.bottom, next.bottom) - Math.max(box.top, next.top);
      if (wide > 2 && high > 4) found.overlaps.push([name, other]);
    }
  });
}
found.overflow = document.documentElement.scrollWidth - window.innerWidth;
const table = document.querySelector("table.sortable");
const column = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.value);
table.tHead.rows[0].cells[1].querySelector("button").click();
found.falling = column();
table.tHead.rows[0].cells[1].querySelector("button").click();
found.rising = column();
parent.postMessage(JSON.stringify(found), "*");
"""
FRAME = """<!doctype html><meta name="color-scheme" content="light dark">
<body style="margin:0">
<iframe src="probed.html" style="border:0;width:{width}px;height:6000px"></iframe>
<pre id="probe"></pre><script>
const shown = document.getElementById("probe");
addEventListener("message", (event) => {{ shown.textContent = event.data; }});
</script>"""


def browser() -> str:
    """Returns the browser's command; skips the test where there is none."""
    for name in filter(shutil.which, NAMES):
        # Some systems have the name only, as a stub that asks to install the browser.
        if subprocess.run([name, "--version"], capture_output=True).returncode == 0:
            return name
    pytest.skip(f"none of {', '.join(NAMES)} is installed")


def visit(page: pathlib.Path, profile: pathlib.Path, *options: str) -> tuple[str, list[str]]:
    """Returns the page's elements after its scripts ran, and the lines of its console."""
    command = [browser(), *SILENT, f"--user-data-dir={profile}", *options, "--dump-dom"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_failures(workdir: Any) -> pathlib.Path:
    """Returns the report of a workdir with a failed method, long names and several sizes."""
    (workdir.folder("pf") / "done.json").unlink()
    workdir.status["pf"] = "failed"
    name = "pd_of_a_larger_model_with_a_long_name"
    workdir.train(
        name, objective="distill", needs=("transfer", "logits"), final=0.921, loss=(0.6, 0.2),
        steps=900, seconds=80, size="L4_H256",
    )  # fmt: skip
    rows = {"basic": "basic", "PF": "pf", "PD": "pd", "PD of a model four times as large": name}
    workdir.write({**rows, "teacher": "teacher"}, reference="SST-2")
    return pathlib.Path(read_report(workdir.root, workdir.name).write_page())


def test_the_page_as_it_is_has_a_silent_console(workdir: Any, tmp_path: pathlib.Path) -> None:
    elements, console = visit(with_failures(workdir), tmp_path / "profile")
    assert console == []
    assert elements.count("<svg") > 10


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overlaps_or_overflows_and_tables_sort(
    workdir: Any, tmp_path: pathlib.Path, width: int, scheme: str
) -> None:
    found = probed(with_failures(workdir), tmp_path / "profile", width=width, scheme=scheme)
    assert_tidy(found)
    # The failed method has no value, and stays at the end whichever way the table is sorted.
    *values, last = found["falling"]
    assert last == ""
    assert values == sorted(values, reverse=True)
    assert found["rising"] == [*reversed(values), ""]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_overlaps_or_overflows_in_a_study(
    empty: Any, tmp_path: pathlib.Path, width: int, scheme: str
) -> None:
    asked = studies.fill(empty)
    studies.diverge(empty, "pd-L4_H256-2")
    studies.write(empty, asked)
    page = pathlib.Path(read_report(empty.root, empty.name).write_page())
    assert_tidy(probed(page, tmp_path / "profile", width=width, scheme=scheme))


def probed(page: pathlib.Path, profile: pathlib.Path, *, width: int, scheme: str) -> dict[str, Any]:
    """Returns what the probe finds in a page, which must be silent."""
    # The page's own policy refuses foreign scripts, so the probe goes into a copy without it.
    source = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text())
    probed = page.with_name("probed.html")
    probed.write_text(source.replace("</body>", f"<script>{PROBE}</script></body>"))
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.format(width=width))
    colours = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    elements, console = visit(frame, profile, colours, f"--window-size={width},6000")
    assert console == []
    answer = re.search(r'<pre id="probe">(.+?)</pre>', elements)
    assert answer is not None
    found = json.loads(answer[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return found


def assert_tidy(found: dict[str, Any]) -> None:
    """There are charts, of which no two texts overlap, and nothing leaves its frame."""
    assert found["drawn"] > 8
    assert found["overlaps"] == []
    assert found["outside"] == []
    assert found["overflow"] <= 0
