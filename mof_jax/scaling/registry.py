"""Every law by the name that `--law` takes."""

from __future__ import annotations

from mof_jax.scaling import chinchilla, envelope, isoflop, lr, openclip, power, repeats
from mof_jax.scaling.law import Law

LAWS: dict[str, Law] = {law.name: law for law in (
    chinchilla.LAW, isoflop.LAW, envelope.LAW, power.LAW, power.PURE, openclip.LAW, lr.LAW, repeats.LAW)}
