"""The table of cells at the head of ``replication/cells.py`` is the only one, and complete."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from replkit.replication import cells
from replkit.testing.sim.machines import BLOCK_SIZE
from replkit.testing.sim.world import World

SOURCE = Path(cells.__file__).parents[1]
LAYERS = ("snapshot", "replication", "recovery", "site")
ROW = re.compile(r"^``([a-z_.<>]+)``", re.MULTILINE)


def table() -> set[str]:
    return set(ROW.findall(cells.__doc__ or ""))


def names_in(node: ast.AST, module: ModuleType) -> Iterator[str]:
    """Names of cells that a call or a default of a parameter gives; what a variable holds was given elsewhere."""
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.args, *node.args.kwonlyargs]
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        for argument, default in zip(reversed(arguments), reversed(defaults), strict=False):
            if argument.arg == "cell" and default is not None:
                yield from value_of(default, module)
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of_save = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value).endswith("save")
        place = 0 if called in {"load", "swap"} and of_save else 1 if called in {"StructCell", "load_struct"} else None
        if place is not None and len(node.args) > place:
            yield from value_of(node.args[place], module)


def value_of(node: ast.expr, module: ModuleType) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and isinstance(getattr(module, node.id, None), str):
        yield getattr(module, node.id)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("_cell"):
        yield getattr(module, node.func.id)("<member>")


def used() -> dict[str, str]:
    """Cells that the code names, and where."""
    found: dict[str, str] = {}
    for layer in LAYERS:
        for path in sorted((SOURCE / layer).rglob("*.py")):
            place = path.relative_to(SOURCE)
            module = importlib.import_module(".".join(("replkit", *place.with_suffix("").parts)))
            for node in ast.walk(ast.parse(path.read_text())):
                for name in names_in(node, module):
                    found.setdefault(name, str(place))
    return found


@pytest.mark.requirement("S1")
def test_every_cell_that_the_code_names_is_in_the_table() -> None:
    found = used()
    assert {"root", "seeded", "policy", "in_use", "intents", "sent.<member>", "reads.<member>"} <= found.keys()
    assert {name: place for name, place in found.items() if name not in table()} == {}


def test_a_running_primary_and_secondary_have_no_other_cells() -> None:
    world = World()
    world.write(0, b"0" * BLOCK_SIZE)
    world.add_members()
    world.settle()
    names = {name for machine in world.machines for name in machine.save.cells()}
    assert "sent.m0" in names
    assert {name.replace(".m0", ".<member>") for name in names} <= table()
