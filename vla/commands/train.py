"""Train a policy as a configuration file says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vla.commands import parse_known
from vla.config import Config, config_fields, load_config


@dataclass
class Arguments:
    """Train a policy as a configuration file says. Any of its fields can be overridden: --section.field VALUE.

    Examples:
        vla train --config configs/tabletop.yaml
        vla train --config configs/tabletop.yaml --training.steps 2000 --data.datasets data/a data/b --output runs/short
        vla train --config configs/tabletop.yaml --resume
        vla train --config configs/tabletop.yaml --show-config
        accelerate launch scripts/train.py --config configs/tabletop.yaml
    """

    config: Path
    """YAML file; see configs/."""
    resume: bool = False
    """Go on from the newest checkpoint in the run's output folder, bit for bit as if it had never stopped."""
    show_config: bool = False
    """Print every field with its value and meaning, overrides included, and stop."""


def main(arguments: Sequence[str]) -> int:
    settings, overrides = parse_known(Arguments, "train", arguments)
    config = load_config(settings.config, overrides)
    if settings.show_config:
        Console(highlight=False).print(fields_table(config))
        return 0
    # Imported late: a typo in the configuration shouldn't wait for torch.
    from vla.training.trainer import train

    train(config, settings.resume)
    return 0


def fields_table(config: Config) -> Table:
    """Key, value and meaning of every field."""
    table = Table("field", "value", "meaning", box=None)
    table.columns[0].no_wrap = True
    for key, value, meaning in config_fields(config):
        table.add_row(f"--{key}", str(value), " ".join(meaning.split()))
    return table
