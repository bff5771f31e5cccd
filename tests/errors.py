"""Writes `docs/errors.md`: every error that pd_jax raises, taken from its code.

    python -m tests.errors

A message is one sentence: what is wrong, then, behind a colon or semicolon, what to do. The table
is made from the sentences themselves, so that it cannot differ from what the program prints.
"""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Errors

Every error a user can meet, by kind; `...` stands for what the program fills in. A command prints
one as `error: ...` and exits with status 2. A traceback is a bug in pd_jax: please report it.

This page is made from the code by `python -m tests.errors`.
"""


def kinds() -> dict[str, str]:
    """Returns the name of each kind of error -> what it means."""
    tree = ast.parse((ROOT / "pd_jax" / "errors.py").read_text("utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        node.name: " ".join((ast.get_docstring(node) or "").split())
        for node in classes
        if node.name.endswith("Error") and node.name != "PdError"
    }


def sentences(node: ast.expr) -> str:
    """Returns a message with `...` for all that is not literal text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(sentences(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return sentences(node.left) + sentences(node.right)
    return "..."


def found() -> list[tuple[str, str, str]]:
    """Returns (kind, message, file) of every error that is made in pd_jax, sorted."""
    known = kinds()
    rows = set()
    for path in sorted((ROOT / "pd_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
                if node.func.id in known:
                    message = "; ".join(map(sentences, node.args))
                    message = re.sub(r"(\.{3})+", "...", " ".join(message.split()))
                    name = path.relative_to(ROOT / "pd_jax").as_posix()
                    if message != "...":  # another's sentence, passed on
                        rows.add((node.func.id, message, name))
    return sorted(rows)


def page() -> str:
    """Returns the whole page."""
    parts = [HEAD]
    rows = found()
    for kind, meaning in sorted(kinds().items()):
        mine = [(message, name) for found_kind, message, name in rows if found_kind == kind]
        parts.append(f"\n## {kind}\n\n{meaning}\n")
        if mine:
            parts.append("\n| what is wrong | what to do | raised in |\n|---|---|---|\n")
        for message, name in mine:
            wrong, _, remedy = _split(message).replace("|", "\\|").partition("\0")
            parts.append(f"| {wrong.strip()} | {remedy.strip() or '(as it says)'} | `{name}` |\n")
    return "".join(parts)


def _split(message: str) -> str:
    """Returns the message with a zero byte before what to do: behind the last `;`, else `: `."""
    for mark in ("; ", ": "):
        wrong, _, remedy = message.rpartition(mark)
        if wrong and len(remedy) > len("..."):
            return f"{wrong}\0{remedy}"
    return message


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(found())} errors in {PAGE.relative_to(ROOT)}")
