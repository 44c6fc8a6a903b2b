"""Which N and D to train for a budget, by a fitted law, and what that costs.

For L = E + A/N^α + B/D^β under C = 6·N·D (Hoffmann et al. 2022, equation 4): N_opt = G·(C/6)^(β/(α+β)),
D_opt = (C/6)^(α/(α+β))/G, G = (αA/(βB))^(1/(α+β)). IsoFLOP parabolas and the envelope give the two lines themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
from typing import Any

from jaxtyping import Float
import numpy as np

from mof_jax.errors import UserError
from mof_jax.hardware import Throughput, Topology
from mof_jax.parsing import Malformed, is_number, parse_object
from mof_jax.scaling import lr
from mof_jax.scaling.law import Estimate, Fit

WITH_FRONTIER = ("chinchilla", "isoflop", "envelope")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a number of FLOPs on a topology, by division: what fits and how fast it can be is for `mof plan` to say.

    Attributes:
      mfu: share of the peak that is expected. dollars: None without a price. least: chip-hours at the most that the plan's step
        allows. exposed: at no communication hidden. source: the plan; all three None where no plan says it.
    """

    topology: str
    chips: int
    mfu: float
    chip_hours: float
    days: float
    dollars: float | None
    least: float | None = None
    exposed: float | None = None
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Allocation:
    """What to train for a budget.

    Attributes:
      loss: None where the law knows none. lr: the rate at N, None without a law of it. notes: what is not known, and why.
    """

    flops: float
    N: Estimate
    D: Estimate
    tokens_per_parameter: Estimate
    loss: Estimate | None
    lr: float | None
    weight_decay: float | None
    batch: float | None
    cost: Cost | None
    notes: tuple[str, ...]


Rows = Float[np.ndarray, "1+draws budgets"]


def optima(f: Fit, flops: Float[np.ndarray, "budgets"]) -> tuple[Rows, Rows, Rows | None]:
    """log N_opt, log D_opt and log L of budgets, by the fit (first row) and by its draws.

    Raises:
      UserError: a law without a frontier, or one whose exponents are not positive.
    """
    if f.law.name not in WITH_FRONTIER:
        raise UserError(f"the law {f.law.name!r} has no compute-optimal frontier; {', '.join(WITH_FRONTIER)} have one")
    rows, c = np.vstack([f.theta, f.draws])[:, :, None], np.log(flops)
    if f.law.name == "isoflop":
        return rows[:, 0] + rows[:, 1] * c, rows[:, 2] + rows[:, 3] * c, None
    if f.law.name == "envelope":
        return rows[:, 2] + rows[:, 3] * c, rows[:, 4] + rows[:, 5] * c, rows[:, 0] + rows[:, 1] * c
    rows = np.concatenate([rows[:1], rows[1:][(rows[1:, 3:] > 0).all((1, 2))]])
    if (rows[0, 3:] <= 0).any():
        raise UserError("no compute-optimal frontier: an exponent of the fit is not positive, so that more is not better")
    a, b, e, alpha, beta = np.moveaxis(rows, 1, 0)
    g = (np.log(alpha / beta) + a - b) / (alpha + beta)
    n = g + beta / (alpha + beta) * (c - math.log(6))
    d = c - math.log(6) - n
    return n, d, np.logaddexp(np.logaddexp(a - alpha * n, b - beta * d), e)


def exponents(f: Fit) -> dict[str, Estimate]:
    """a of N_opt ∝ C^a and b of D_opt ∝ C^b."""
    n, d, _ = optima(f, np.array([1e20, 1e20 * math.e]))
    found = {}
    for name, values in (("a", n), ("b", d)):
        slopes = values[:, 1] - values[:, 0]
        low, high = f.interval(slopes[0], slopes[1:])
        found[name] = Estimate(float(slopes[0]), float(low), float(high))
    return found


def plan(f: Fit, flops: float, throughput: Throughput | None = None, price: float | None = None,
         rates: Mapping[str, Any] | None = None) -> Allocation:
    """What to train for `flops`.

    Args:
      throughput: where, and how fast, for the cost; None for no cost. price: dollars a chip-hour. rates: a saved fit of
        `--law lr`, see `load_rates`.

    Raises:
      UserError: see `optima`, `cost`.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise UserError(f"--plan {flops:g}: a number of FLOPs above zero")
    n, d, loss = optima(f, np.array([flops]))
    of = lambda x: f.estimate(float(x[0, 0]), x[1:, 0])
    notes = []
    largest = 6 * (f.points["N"] * f.points["D"]).max() if "D" in f.points else f.points["C"].max()
    if flops > 10 * largest:
        notes.append(f"{flops / largest:,.0f} times the largest run of the table: the intervals know nothing of a law that "
                     "bends")
    if loss is None:
        notes.append(f"no loss: {f.law.name} predicts sizes alone")
    found = Allocation(flops, of(n), of(d), of(d - n), None if loss is None else of(loss), None, None, None,
                 None if throughput is None else cost(flops, throughput, price), ())
    if rates is None:
        return dataclasses.replace(found, notes=(
            *notes, "no learning rate and no batch: fit a grid with --law lr --out DIR and give --rates DIR/fit.json"))
    if rates["batch"] is None:
        notes.append("no batch: the law of the learning rate was fitted to runs of several batch sizes, or of unknown ones")
    if not rates["searched_decay"]:
        notes.append(f"weight decay by MM1's rule, {lr.MM1_DECAY} times the rate: it was not searched")
    rate = lr.rate(found.N.value, rates["p"], rates["q"])
    return dataclasses.replace(found, lr=rate, weight_decay=rates["wd_per_lr"] * rate, batch=rates["batch"], notes=tuple(notes))


def cost(flops: float, throughput: Throughput, price: float | None = None) -> Cost:
    """Chip-hours = FLOPs / (peak × MFU).

    Args:
      price: dollars a chip-hour.

    Raises:
      UserError: an MFU that is no share, or no such topology.
    """
    if not 0 < throughput.mfu <= 1:
        raise UserError(f"--mfu {throughput.mfu:g}: a share of the peak, above 0 and at most 1")
    t = Topology.parse(throughput.topology)
    at = lambda mfu: None if mfu is None else flops / (t.chip.flops * mfu) / 3600
    hours = at(throughput.mfu)
    return Cost(str(t), t.chips, throughput.mfu, hours, hours / t.chips / 24, None if price is None else hours * price,
                at(throughput.best), at(throughput.exposed), throughput.source)


def load_rates(path: str) -> dict[str, Any]:
    """p, q, weight decay and batch of a saved fit of `--law lr`.

    Raises:
      UserError: no such file, or not one of those.
    """
    if not os.path.isfile(path):
        raise UserError(f"--rates {path}: no such file; `mof fit GRID --law lr --out DIR` writes DIR/fit.json")
    no_rates = UserError(f"--rates {path}: not a fit of --law lr; `mof fit GRID --law lr --out DIR` writes DIR/fit.json")
    try:
        with open(path, "rb") as file:
            saved = parse_object(file.read())
    except (OSError, Malformed) as error:
        raise UserError(f"{no_rates} ({error})") from None
    params, batch = saved.get("params"), saved.get("batch")
    if not isinstance(params, dict) or not all(isinstance(x, dict) for x in params.values()):
        raise no_rates
    values = {name: x.get("value") for name, x in params.items()}
    wanted = {"p": values.get("p"), "q": values.get("q"), "wd_per_lr": values.get("wd_per_lr", lr.MM1_DECAY)}
    if not all(map(is_number, wanted.values())) or not (batch is None or is_number(batch)):
        raise no_rates
    return wanted | {"searched_decay": "wd_per_lr" in values, "batch": None if batch is None else float(batch)}
