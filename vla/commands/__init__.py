"""The commands of `vla`, a module each, with `main(arguments) -> exit code`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], command: str, arguments: Sequence[str], description: str | None = None) -> Arguments:
    """An instance of the dataclass `kind`; its docstring, examples included, is the command's help."""
    return tyro.cli(kind, args=arguments, **_options(kind, command, description))


def parse_known(kind: type[Arguments], command: str, arguments: Sequence[str]) -> tuple[Arguments, list[str]]:
    """The same, and the arguments that are not about it."""
    return tyro.cli(kind, args=arguments, return_unknown_args=True, **_options(kind, command, None))


def _options(kind: type, command: str, description: str | None) -> dict[str, Any]:
    return {
        "prog": f"vla {command}",
        "description": description or inspect.cleandoc(kind.__doc__ or ""),
        "config": (tyro.conf.FlagCreatePairsOff,),
    }
