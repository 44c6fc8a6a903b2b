"""`mof list`: the kinds of a room, as a config names them."""

from __future__ import annotations

import argparse
import importlib

from mof_jax.commands import add_command

ROOMS = {  # room to where its registry is
    "connectors": ("mof_jax.models.connectors", "CONNECTORS"),
    "evaluators": ("mof_jax.evals", "EVALUATORS"),
    "fields": ("mof_jax.data.fields", "FIELDS"),
    "fusions": ("mof_jax.models.fusion", "FUSIONS"),
    "heads": ("mof_jax.models.heads", "HEADS"),
    "objectives": ("mof_jax.objectives", "OBJECTIVES"),
    "orders": ("mof_jax.data.orders", "ORDERS"),
    "sources": ("mof_jax.data.sources", "SOURCES"),
    "towers": ("mof_jax.models.image_tower", "TOWERS"),
}


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(commands, "list", show, "List the kinds of a room, as a config names them.", "mof list evaluators")
    p.add_argument("room", choices=sorted(ROOMS), help="which kinds")


def show(args: argparse.Namespace) -> None:
    """Prints a table, and a line for each module that is left out of it."""
    from mof_jax import console

    module, name = ROOMS[args.room]
    registry = getattr(importlib.import_module(module), name)
    console.show(console.table(args.room, ("kind", "what", "module"), registry.rows(), texts=3))
    for line in registry.broken():
        console.show(line)
