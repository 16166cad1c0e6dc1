"""The commands of `vla`, a module each, with `main(arguments) -> exit code`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from vla.models.policy import VLAPolicy

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], command: str, arguments: Sequence[str], description: str | None = None) -> Arguments:
    """An instance of the dataclass `kind`; its docstring, examples included, is the command's help."""
    return tyro.cli(kind, args=arguments, **_options(kind, command, description))


def parse_known(kind: type[Arguments], command: str, arguments: Sequence[str]) -> tuple[Arguments, list[str]]:
    """The same, and the arguments that are not about it."""
    return tyro.cli(kind, args=arguments, return_unknown_args=True, **_options(kind, command, None))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the error stream for as long as the context lasts, with the time left; yields `progress(done, all)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def load_policy(checkpoint: str, denoising_steps: int | None = None) -> VLAPolicy:
    """The policy in a folder, or of a hub repository; `denoising_steps` by default as it was configured.

    Raises:
        FileNotFoundError: there is neither. ValueError: not a policy, or no denoising step.
    """
    if not Path(checkpoint).exists() and checkpoint.count("/") != 1:
        raise FileNotFoundError(f"{checkpoint}: no such checkpoint; give a folder that training wrote, or a hub name")
    from vla.models.policy import VLAPolicy

    return VLAPolicy.from_pretrained(checkpoint, denoising_steps)


def _options(kind: type, command: str, description: str | None) -> dict[str, Any]:
    return {
        "prog": f"vla {command}",
        "description": description or inspect.cleandoc(kind.__doc__ or ""),
        "config": (tyro.conf.FlagCreatePairsOff,),
    }
