"""Who may import whom, and how long a file may grow (CONTRIBUTING.md)."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "pd_jax").rglob("*.py"))
ORDER = (
    "errors",
    "files",
    "signals",
    "processes",
    "locks",
    "progress",
    "allocation",
    "compilation",
    "workdir",
    "config",
    "parallel",
    "data",
    "models",
    "objectives",
    "training",
    "evaluation",
    "report",
    "inputs",
    "stages",
    "jobs",
    "versions",
    "record",
    "planning",
    "execution",
    "pipeline",
    "estimate",
)
"""A part may import what stands before it, and itself; `main` and `tools` may import all."""
WITHIN = {"data": ("wire", "text", "tokenizers", "records", "building", "logits", "feed")}
"""The same order within a part that has parts of its own."""
ONLY = {
    "flax": ("models/",),
    "orbax": ("training/checkpoint.py",),
    "grain": ("data/",),
    "tensorflow_datasets": ("data/",),
    "optax": ("training/optim.py", "training/step.py"),
    "jinja2": ("report/page.py",),
    "ml_collections": ("config/",),
}
HEAVY = ("torch", "tensorflow", "transformers")


def imported(tree: ast.AST) -> Iterator[str]:
    """Yields the dotted name of everything imported; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    return name.split("/")[0].split(".")[0]


def climbs(name: str, target: list[str]) -> bool:
    """Tells whether a file imports, of its own part, what stands below the file there."""
    whole, *inner = name.split("/")
    order = WITHIN.get(whole, ())
    if target[:1] != [whole] or not order or len(inner) < 2:
        return False
    return order.index(target[1]) > order.index(inner[0])


def breaches(name: str, source: str) -> list[str]:
    """Returns what a file of pd_jax breaks; `name` is its path below pd_jax."""
    tree = ast.parse(source)
    found = []
    for target in imported(tree):
        root, *rest = target.split(".")
        if root in ONLY and not name.startswith(ONLY[root]):
            found.append(f"{name} imports {root}, which belongs in {' and '.join(ONLY[root])}")
        if root in ("configs", "launch", "tests"):
            found.append(f"{name} imports {root}")
        if root == "pd_jax" and part(name) in ORDER and rest and rest[0] != "__version__":
            if rest[0] not in ORDER or ORDER.index(rest[0]) > ORDER.index(part(name)):
                found.append(f"{name} imports {target}, which stands below it")
        found += [f"{name} imports {target}, which stands below it"] if climbs(name, rest) else []
    for node in tree.body:
        for target in imported(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            if target.split(".")[0] in HEAVY:
                found.append(f"{name} imports {target} at its top")
    return found


def test_contributing_lists_the_parts_in_this_order() -> None:
    rows = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    named = [part(name) for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert named == [*ORDER, "main", "tools"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_stands_above_it(path: pathlib.Path) -> None:
    name = str(path.relative_to(ROOT / "pd_jax"))
    assert part(name) in (*ORDER, "main", "tools", "__init__")
    assert breaches(name, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_under_400_lines_and_functions_under_50(path: pathlib.Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 400
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert [name for name, lines in lengths.items() if lines > 50] == []


@pytest.mark.parametrize(
    ("name", "source", "count"),
    [
        ("models/bert.py", "import flax.linen as nn\nfrom pd_jax import config", 0),
        ("data/feed/batches.py", "import flax", 1),
        ("data/records/dataset.py", "from pd_jax.data.wire import tfrecord", 0),
        ("data/records/dataset.py", "from pd_jax.data.logits.store import LogitStore", 1),
        ("training/state.py", "def f():\n  import optax", 1),
        ("models/bert.py", "from pd_jax.training import step", 1),
        ("models/bert.py", "from pd_jax import training, errors", 1),
        ("tools/export.py", "from pd_jax import pipeline", 0),
        ("tools/export.py", "import torch", 1),
        ("tools/export.py", "def f():\n  import torch", 0),
        ("pipeline.py", "from configs import common", 1),
    ],
)
def test_the_rules_catch_what_they_are_for(name: str, source: str, count: int) -> None:
    assert len(breaches(name, source)) == count


def test_configs_import_nothing_from_pd_jax() -> None:
    for path in sorted((ROOT / "configs").rglob("*.py")):
        roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text("utf-8")))}
        assert "pd_jax" not in roots, path
