"""Tables drawn from known laws; every one a function of a generator and the noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mof_jax.bench import fit as bench
from mof_jax.scaling import lr
from mof_jax.scaling.table import Points

CHINCHILLA = bench.TRUTH
ISOFLOP = {"k_N": 0.09, "a": 0.5, "k_D": 1 / 0.54, "b": 0.5}
ENVELOPE = {"k_L": 29.57, "c": -0.0492, "k_N": 0.09, "a": 0.52, "k_D": 1 / 0.54, "b": 0.48}
POWER = {"E": 1.7, "A": 300.0, "alpha": 0.12}
PURE = {"A": 5.858, "alpha": 0.1114}
IMAGENET, COCO = {"a": 5.858, "b": -0.1114}, {"a": 2.750, "b": -0.0794}
LR = {"p": lr.MM1[0], "q": lr.MM1[1]}
REPEATS = {"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.35, "beta": 0.35, "R_D": 15.39, "R_N": 5.31}


def table(**columns: np.ndarray) -> Points:
    return Points("table", columns, tuple(range(1, len(next(iter(columns.values()))) + 1)))


def noisy(loss: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    return loss * np.exp(noise * rng.standard_normal(len(loss)))


def chinchilla_loss(n: np.ndarray, d: np.ndarray, t: Mapping[str, float] = CHINCHILLA) -> np.ndarray:
    return t["E"] + t["A"] / n ** t["alpha"] + t["B"] / d ** t["beta"]


def chinchilla(rng: np.random.Generator, noise: float = 0.005, n: int = 240) -> Points:
    return bench.points(n, noise, rng)


def parabolas(rng: np.random.Generator, noise: float = 0.003, budgets: int = 5, runs: int = 9) -> Points:
    """Losses that are parabolas in log N about N_opt = k_N C^a."""
    c = np.repeat(np.geomspace(1e18, 1e21, budgets), runs)
    best = ISOFLOP["k_N"] * c ** ISOFLOP["a"]
    n = best * np.exp(np.tile(np.linspace(-1.8, 1.5, runs), budgets))
    loss = 30 * c ** -0.05 + 0.06 * np.log(n / best) ** 2
    return table(N=n, C=c, L=loss + noise * rng.standard_normal(len(c)))


def envelope(rng: np.random.Generator, noise: float = 0.01, bins: int = 9) -> Points:
    """One run on the law in every bin, and three clearly worse ones."""
    c = np.geomspace(1e18, 1e18 * 10 ** (bins / 4) * 0.98, bins)
    t = ENVELOPE
    draw = lambda values: noisy(values, rng, noise)
    n, d, loss = draw(t["k_N"] * c ** t["a"]), draw(t["k_D"] * c ** t["b"]), draw(t["k_L"] * c ** t["c"])
    worse = [(n * f, d / f, loss * 1.12) for f in (0.3, 0.5, 4.0)]
    join = lambda i, x: np.concatenate([x, *(w[i] for w in worse)])
    return table(N=join(0, n), D=join(1, d), C=np.tile(c, 4), L=join(2, loss))


def power(rng: np.random.Generator, noise: float = 0.003, n: int = 40) -> Points:
    x = np.geomspace(1e15, 1e22, n)
    return table(x=x, L=noisy(POWER["E"] + POWER["A"] / x ** POWER["alpha"], rng, noise))


def pure_power(rng: np.random.Generator, noise: float = 0.02, n: int = 29) -> Points:
    x = np.geomspace(1.8e10, 6.6e12, n)
    return table(x=x, L=noisy(PURE["A"] / x ** PURE["alpha"], rng, noise))


def openclip(rng: np.random.Generator, noise: float = 0.01, truth: Mapping[str, float] = IMAGENET) -> Points:
    """29 runs over the paper's range of GMAC: the best of each bin on the law at its centre, the others 6 to 40 % worse."""
    low, high = np.log10(1.8e10), np.log10(6.6e12)
    step = (high + 0.1 - low) / 5
    centres = low + step * (np.arange(5) + 0.5)
    best = noisy(truth["a"] * 10 ** (truth["b"] * centres), rng, noise)
    c = np.concatenate([[low, high], rng.uniform(low, high, 22)])
    on_law = best[np.clip(((c - low) / step).astype(int), 0, 4)]
    worse = on_law * rng.uniform(1.06, 1.4, len(c))
    return table(C=10 ** np.concatenate([centres, c]), error=np.concatenate([best, worse]))


def lr_grid(rng: np.random.Generator, noise: float = 0.004, sizes: tuple[float, ...] = (9e6, 85e6, 302e6, 1.2e9),
            rates: int = 9, shift: tuple[float, ...] = (0.1, -0.2, 0.0, 0.3)) -> Points:
    """MM1's sizes; a grid of rates a factor of 1.6 apart about the law's, whose middle is `shift` (ln) off it."""
    n = np.repeat(sizes, rates)
    star = LR["p"] * np.log(n) + LR["q"]
    grid = star + np.repeat(shift, rates) + np.tile(np.log(1.6) * (np.arange(rates) - rates // 2), len(sizes))
    loss = 4 * n**-0.03 + 0.05 * (grid - star) ** 2
    return table(N=n, lr=np.exp(grid), L=loss + noise * rng.standard_normal(len(n)))


def repeats(rng: np.random.Generator, noise: float = 0.003, n: int = 182) -> Points:
    """As many runs as the paper fits: 7 M to 9 B parameters, 1 to 100 epochs of 0.1, 0.4, 1.5 and 25 B tokens."""
    t = REPEATS
    unique = rng.choice([1e8, 4e8, 1.5e9, 25e9], n)
    size = np.exp(rng.uniform(np.log(7e6), np.log(8.7e9), n))
    data = unique * np.exp(rng.uniform(0, np.log(100), n))
    g = (t["alpha"] * t["A"] / (t["beta"] * t["B"])) ** (1 / (t["alpha"] + t["beta"]))
    few = np.minimum(size, g * (g * unique) ** (t["beta"] / t["alpha"]))
    worth = lambda amount, new, r: new * (1 + r * (1 - np.exp(-(amount / new - 1) / r)))
    loss = chinchilla_loss(worth(size, few, t["R_N"]), worth(data, unique, t["R_D"]), t)
    return table(N=size, D=data, U=unique, L=noisy(loss, rng, noise))


# law -> (how its table is drawn, what it should find)
DRAWS = {"chinchilla": (chinchilla, CHINCHILLA), "isoflop": (parabolas, ISOFLOP), "envelope": (envelope, ENVELOPE),
         "power": (power, POWER), "pure-power": (pure_power, PURE), "openclip": (openclip, IMAGENET), "lr": (lr_grid, LR),
         "repeats": (repeats, REPEATS)}
