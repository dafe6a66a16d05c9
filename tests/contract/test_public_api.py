"""The public names and how they are called, against the list that users rely on.

Where a change is meant, write the list anew, read its diff, and commit it with the change::

    python tests/contract/test_public_api.py
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import medseg

SNAPSHOT = Path(__file__).with_name("public_api.txt")
HEADER = "# Public names of medseg. Written by test_public_api.py; its docstring says how.\n"


def public_modules() -> list[str]:
    """Every module but private ones and the command line, whose surface is its options."""
    names = ["medseg", *(found.name for found in pkgutil.walk_packages(medseg.__path__, "medseg."))]
    return [name for name in names if not name.startswith("medseg.cli") and "._" not in name]


def signature(thing: Any) -> str:
    """Names, kinds and defaults of parameters; what their types are is for mypy to guard."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except ValueError:  # a TypedDict, for one, is called as a dictionary is
        return ""
    plain = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.default if is_plain(parameter.default) else ...,
        )
        for parameter in parameters
    ]
    return str(inspect.Signature(plain)).replace("=Ellipsis", "=...")


def is_plain(value: object) -> bool:
    """Whether a default's text is the same in every run and version."""
    if isinstance(value, tuple):
        return all(is_plain(item) for item in value)
    return value is None or value is inspect.Parameter.empty or isinstance(value, (bool, int, float, str))


def members(owner: type) -> Iterator[str]:
    """Methods and properties that the class itself defines."""
    for name, member in sorted(vars(owner).items()):
        if name.startswith(("_", "model_")):
            continue
        if isinstance(member, Enum):
            yield f"{name} = {member.value!r}"
        elif isinstance(member, (staticmethod, classmethod)) or inspect.isfunction(member):
            yield f"{name}{signature(getattr(owner, name))}"
        elif isinstance(member, property) or hasattr(member, "attrname"):  # the latter is a cached property
            yield name


def lines_of(module: ModuleType) -> Iterator[str]:
    """Each announced name; one that lives elsewhere is shown with its home alone."""
    for name in sorted(getattr(module, "__all__", ())):
        thing = getattr(module, name)
        path = f"{module.__name__}.{name}"
        home = getattr(thing, "__module__", None)
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and home != module.__name__:
            yield f"{path} = {home}.{thing.__qualname__}"
        elif inspect.isclass(thing):
            made_by_users = not issubclass(thing, Enum) and not getattr(thing, "_is_protocol", False)
            yield f"{path}{signature(thing) if made_by_users else ''}"
            yield from (f"{path}.{member}" for member in members(thing))
        elif inspect.isfunction(thing):
            yield f"{path}{signature(thing)}"
        else:
            yield path


def verbs(command: Any, words: str) -> Iterator[str]:
    """Each command of the command line with its arguments and options."""
    children = getattr(command, "commands", {})
    for name in sorted(children):
        yield from verbs(children[name], f"{words} {name}")
    if not children:
        names = [max(parameter.opts, key=len) for parameter in command.params]
        yield " ".join([words, *sorted(names)])


def public_api() -> str:
    from medseg.cli.main import app

    lines = [line for name in public_modules() for line in lines_of(importlib.import_module(name))]
    lines += verbs(typer.main.get_command(app), "medseg")
    return HEADER + "".join(f"{line}\n" for line in lines)


def test_public_names_are_as_listed() -> None:
    listed = SNAPSHOT.read_text(encoding="utf-8")
    found = public_api()
    diff = difflib.unified_diff(listed.splitlines(), found.splitlines(), "listed", "found", n=0, lineterm="")
    if listed != found:
        pytest.fail("\n".join(["The public names have changed:", *diff, "", str(__doc__)]), pytrace=False)


@pytest.mark.parametrize("module_name", public_modules())
def test_each_module_says_what_is_public(module_name: str) -> None:
    """No public name by accident, none announced that is not there, and all of them documented."""
    module = importlib.import_module(module_name)
    own = {
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    }
    announced = getattr(module, "__all__", [])
    assert own <= set(announced)
    assert len(announced) == len(set(announced))
    assert module.__doc__, "a module says in one line what it is for"
    for name in announced:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api(), encoding="utf-8")
