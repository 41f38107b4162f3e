"""What ``import ckptfmt`` and ``ckptfmt --help`` drag in, and the names the package promises."""

from __future__ import annotations

import ast
import inspect
import json

import pytest

import ckptfmt
from tests.helpers.children import run_child

LOADED = "import sys, json; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"


def loaded_after(code: str) -> set[str]:
    result = run_child(f"{code}\n{LOADED}")
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_of_others() -> None:
    others = loaded_after("import ckptfmt") - loaded_after("") - {"ckptfmt"}
    assert not others & {"torch", "numpy", "safetensors", "msgspec", "click", "rich"}


def test_help_needs_click_alone() -> None:
    code = (
        "import click\n"
        "from ckptfmt.cli import main\n"
        "main(['convert', '--help'], standalone_mode=False)"
    )
    others = loaded_after(code)
    assert "click" in others
    assert not others & {"torch", "numpy", "safetensors", "msgspec", "rich"}


def test_the_names_that_type_checkers_see_are_those_of_the_table() -> None:
    """`__all__`, the imports for type checkers and the table of homes must not drift apart."""
    (block,) = (
        node
        for node in ast.parse(inspect.getsource(ckptfmt)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {
        (alias.asname or alias.name): f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {
        name: f"ckptfmt.{home}" if ":" in home else f"ckptfmt.{home}:{name}"
        for name, home in ckptfmt._HOMES.items()
    }
    assert typed == homes
    assert set(ckptfmt.__all__) == {*homes, "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ckptfmt' has no attribute 'lode'"):
        _ = ckptfmt.lode
