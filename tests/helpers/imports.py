"""What a module imports, read from its source: when loaded, when run, or for types only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ckptfmt

PACKAGE = Path(ckptfmt.__file__).parent
MODULES = {
    "ckptfmt." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module. ``when`` is ``load``, ``run`` (inside a function) or ``types``."""

    module: str
    when: str
    line: int


def tree(name: str) -> ast.Module:
    """The parsed source of a module."""
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> list[Import]:
    """Everything a module imports; ``from ckptfmt import x`` counts as ``ckptfmt.x``."""
    return list(_below(tree(name), "load"))


def _below(node: ast.AST, when: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inner = when
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            inner = "types"
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and when == "load":
            inner = "run"
        elif isinstance(child, ast.Import):
            yield from (Import(alias.name, when, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                native = full == "ckptfmt._core"
                module = full if full in MODULES or native else str(child.module)
                yield Import(module, when, child.lineno)
        yield from _below(child, inner)


def top_level(module: str) -> str:
    """The distribution-like first part of a dotted name."""
    return module.partition(".")[0]
