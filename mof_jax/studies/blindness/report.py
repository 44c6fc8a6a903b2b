"""The study as a page of tables and a picture; every sentence that draws a conclusion is computed from the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import json

import numpy as np

from mof_jax.data.pairs import PATTERNS
from mof_jax.evals.correlation import correlate
from mof_jax.evals.paired import mcnemar
from mof_jax.studies.blindness.plan import ARMS, Study
from mof_jax.studies.blindness.results import Difference, Results

_CONTROLS = ("clip-twice", "clip-clip", "clip-random")
_PAPER = (("LLaVA-1.5, 336 px, 576 tokens", 24.7, 37), ("LLaVA-1.5 + I-MoF, 224 px, 512 tokens", 28.0, 42))


def write(study: Study, folder: str, path: str) -> None:
    """`path`.md, `path`.png and `path`.json."""
    results = Results(study, folder)
    with open(f"{path}.json", "w") as f:
        json.dump(numbers(results), f, indent=1)
    with open(f"{path}.md", "w") as f:
        f.write(page(results, path.rsplit("/", 1)[-1]))
    draw(results).savefig(f"{path}.png", dpi=110)


def page(results: Results, name: str) -> str:
    """The report in Markdown."""
    parts = [_head(results, name), _arms(results), _patterns(results), _ratios(results), _streams(results), _blindness(results),
             _dose(results), _probes(results), _correlation(results), _paper()]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def _several(values: Sequence[float]) -> str:
    return " · ".join(f"{value:.1f}" for value in values)


def title(results: Results, arm: str) -> str:
    return f"{ARMS[arm].title} (the dev world's choice)" if arm == results.amof else ARMS[arm].title


def _difference(d: Difference) -> list[str]:
    seeds = ", ".join(f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" for value, low, high in d.seeds)
    return [f"{d.mean:+.1f}", seeds, "yes" if d.clear and len(d.seeds) > 1 else "no"]


def _head(results: Results, name: str) -> str:
    s = results.study
    return (f"# Does a mixture of features mend CLIP's blind spots? A toy answer\n\n`make reproduce-mof` wrote this page, `{name}.png` and "
            f"`{name}.json`. What was expected is in `{name}_plan.md`, written before the run.\n\n"
            f"Pictures of {s.pixels} px, {s.pairs} pairs a pattern in `test` (an artist whom no training picture shows) and in `known` "
            f"(the artists of training); in both, things stand on grounds where training never showed them. Seeds "
            f"{', '.join(map(str, s.seeds))}: towers, language model and reader alike. Pair accuracy in percent, chance 25; a model that "
            f"sees nothing and always answers alike has 0.\n\n![pair accuracy by arm and by pattern]({name}.png)")


def _arms(results: Results) -> str:
    order = ["clip", "ssl", results.amof, "imof", *_CONTROLS]
    rows = []
    for arm in order:
        rows.append([title(results, arm), f"**{results.pair_accuracy(arm).mean():.1f}**", _several(results.pair_accuracy(arm)),
                     f"{results.pair_accuracy(arm, 'known').mean():.1f}", f"{results.other(arm, 'right').mean():.1f}",
                     f"{results.other(arm, 'named').mean():.1f}", f"{results.other(arm, 'cider').mean():.0f}"])
    table = _table(["arm", "pairs, test", "by seed", "pairs, known", "questions, test", "naming, test", "CIDEr-D, test"], rows)
    against = [("imof", base) for base in ("clip", *_CONTROLS)] + [(results.amof, "clip"), ("ssl", "clip")]
    gaps = [[f"{ARMS[a].title} − {ARMS[b].title}", split, *_difference(results.difference(a, b, split))]
            for a, b in against for split in ("test", "known")]
    return (f"## The arms\n\n{table}\n\nDifferences in points, each seed with its 95 % paired bootstrap interval; clear if every seed's "
            "interval leaves out 0.\n\n" + _table(["difference", "split", "mean", "by seed", "clear"], gaps))


def _patterns(results: Results) -> str:
    rows = [[title(results, arm), *(f"{x:.0f}" for x in results.by_pattern(arm, split).mean(0)), split]
            for split in ("test", "known") for arm in ("clip", "ssl", results.amof, "imof", *_CONTROLS)]
    return "## By pattern\n\nPair accuracy, mean over seeds.\n\n" + _table(["arm", *PATTERNS, "split"], rows)


def _ratios(results: Results) -> str:
    first = results.study.seeds[0]
    rows = []
    for arm, ratio in [("clip", "0"), *((a, f"{ARMS[a].ssl_ratio:g}") for a in results.study.sweep), ("ssl", "1"),
                       ("amof-norm", "0.5, features normalised")]:
        get = lambda split, key, arm=arm: results.reader(arm, first)["splits"][split][key]
        rows.append([ratio, *(f"{100 * np.all(get(split, 'right'), axis=1).mean():.1f}" for split in ("dev", "known", "test")),
                     f"{100 * np.mean(get('test', 'named')):.1f}", f"{get('test', 'cider'):.0f}"])
    norms = {kind: np.mean([results.probe(kind, seed)["norm"] for seed in results.study.seeds]) for kind in ("clip", "ssl")}
    return (f"## A-MoF: the SSL ratio\n\nSeed {first}. The dev world chose {ARMS[results.amof].ssl_ratio:g}. Mean norm of a patch: CLIP "
            f"{norms['clip']:.1f}, SSL {norms['ssl']:.1f}, ratio {norms['clip'] / norms['ssl']:.2f}.\n\n"
            + _table(["SSL ratio", "pairs, dev", "pairs, known", "pairs, test", "naming, test", "CIDEr-D, test"], rows))


def _streams(results: Results) -> str:
    rows = []
    for kind in results.reader("imof", results.study.seeds[0])["masked"]:
        found = [100 * np.all(results.reader("imof", seed)["masked"][kind], axis=1).mean() for seed in results.study.seeds]
        rows.append([kind, f"{np.mean(found):.1f}", _several(found)])
    whole = results.pair_accuracy("imof")
    return ("## What I-MoF uses\n\nThe trained models with one stream taken from another picture, or replaced by its mean over pictures; "
            "`words`: the language model before it saw a picture.\n\n"
            + _table(["stream", "pairs, test", "by seed"], [["as trained", f"{whole.mean():.1f}", _several(whole)], *rows]))


def _blindness(results: Results) -> str:
    s = results.study
    shares, literal = (np.mean([results.patterned(results.blind(seed, ssl_below=below)) for seed in s.seeds], axis=0)
                       for below in (None, 0.6))
    rows = [["cos_CLIP > 0.95, cos_SSL < 0.6 (the paper's)", *(f"{x:.0f}" for x in literal)],
            [f"cos_CLIP > {s.clip_above:g}, cos_SSL < the dev pairs' {s.ssl_below:g} quantile", *(f"{x:.0f}" for x in shares)]]
    thresholds = _several([results.ssl_threshold(seed) for seed in s.seeds]).replace(".0 ", " ")
    gains = []
    for base in ("clip", "clip-twice", "clip-clip", "clip-random"):
        for split in ("test", "known"):
            found = [results.blind_gain("imof", base, seed, split) for seed in s.seeds]
            gains.append([f"I-MoF − {ARMS[base].title}", split, ", ".join(f"{v:+.1f} [{a:+.1f}, {b:+.1f}]" for v, a, b in found)])
    return ("## CLIP-blind pairs\n\nShare of the test pairs in percent, mean over seeds. CLIP's descriptor is its embedding as it is; the "
            "SSL tower's is all its patches side by side, minus their mean over pictures (a masked autoencoder trains no pooled one). "
            f"The second threshold as re-fitted, by seed: {thresholds}.\n\n" + _table(["pairs", *PATTERNS], rows)
            + "\n\nGain on blind pairs minus gain on the others of the same patterns, by seed.\n\n"
            + _table(["gain", "split", "blind minus not blind"], gains))


def _dose(results: Results) -> str:
    first = results.study.seeds[0]
    value = lambda arm, split: 100 * results.pairs(arm, first, split).mean()
    rows = [[split, share, f"{value(c, split):.1f}", f"{value(m, split):.1f}", f"{value(m, split) - value(c, split):+.1f}"]
            for split in ("test", "known") for share, c, m in (("a quarter", "clip", "imof"), ("all", "stated-clip", "stated-imof"))]
    extra = [[ARMS[arm].title, *(f"{value(arm, split):.1f}" for split in ("test", "known"))] for arm in ("ssl", "other-ssl", "imof", "other-imof")]
    return (f"## Dose and response, and the other SSL tower\n\nSeed {first}: CLIP towers whose captions state the fact for a quarter of the "
            "pictures, and for all of them. If a mixture mends what captions leave out, its gain must shrink.\n\n"
            + _table(["split", "captions that state the fact", "CLIP", "I-MoF", "gain"], rows)
            + "\n\n" + _table(["arm (other: DINO in place of MAE)", "pairs, test", "pairs, known"], extra))


def _probes(results: Results) -> str:
    s, rows = results.study, []
    for split in ("test", "known"):
        for tower, seeds in (("clip", s.seeds), ("ssl", s.seeds), ("random", s.seeds), ("stated", s.seeds[:1]), ("other", s.seeds[:1])):
            for kind in ("linear", "attentive"):
                found = results.probed(tower, seeds, kind, split)
                rows.append([tower, kind, split, f"{found.mean():.1f}", *(f"{x:.0f}" for x in found)])
    return ("## What is in the features at all\n\nPair accuracy of probes: `linear` on the pooled feature, `attentive` on the patches. "
            "`stated`: CLIP whose captions always state the fact; `other`: DINO.\n\n"
            + _table(["tower", "probe", "split", "mean", *PATTERNS], rows))


def _correlation(results: Results) -> str:
    seeds = results.study.seeds
    clip = dict(zip(PATTERNS, results.statements("clip", seeds)))
    rows = [["CLIP's image score on the statements", *(f"{x:.0f}" for x in clip.values()), ""]]
    for arm in ("clip", "imof"):
        scores = dict(zip(PATTERNS, results.by_pattern(arm).mean(0)))
        found = correlate(clip, scores)
        rows.append([ARMS[arm].title, *(f"{x:.0f}" for x in scores.values()), f"r = {found.r:.2f}, p = {found.p:.2g}"])
    return ("## Does CLIP's weakness become the reader's?\n\nTest, means over seeds; Pearson over nine patterns. The paper has r = 0.87 for "
            "LLaVA-1.5.\n\n" + _table(["", *PATTERNS, ""], rows))


def _paper() -> str:
    gained = np.arange(_PAPER[1][2] - _PAPER[0][2])
    best = mcnemar(np.ones(len(gained), bool), np.zeros(len(gained), bool))
    rows = [[name, f"{value:.1f}", f"{pairs} of 150"] for name, value, pairs in _PAPER]
    return ("## Beside the paper\n\n" + _table(["model", "MMVP", "pairs"], rows) + f"\n\nFive pairs more, of 150: even if no pair was lost, "
            f"McNemar's exact test gives p = {best:.3f}. The paper's own gain for LLaVA-1.5 is not significant; with LLaVA (5.5 → 16.7 at "
            "224 px) it is large.")


def numbers(results: Results) -> dict:
    """Every figure of the page that another page might want."""
    arms = [*results.study.arms]
    return {
        "ssl_ratio": ARMS[results.amof].ssl_ratio,
        "pair_accuracy": {split: {arm: results.pair_accuracy(arm, split).tolist() for arm in arms} for split in ("dev", "known", "test")},
        "by_pattern": {split: {arm: results.by_pattern(arm, split).tolist() for arm in arms} for split in ("known", "test")},
        "named": {arm: results.other(arm, "named").tolist() for arm in arms},
        "cider": {arm: results.other(arm, "cider").tolist() for arm in arms},
        "blind": {pattern: float(x) for pattern, x in zip(PATTERNS, np.mean(
            [results.patterned(results.blind(seed)) for seed in results.study.seeds], axis=0))},
        "statements": {pattern: float(x) for pattern, x in zip(PATTERNS, results.statements("clip", results.study.seeds))},
        "captions": results.reader("imof", results.study.seeds[0])["splits"]["test"]["captions"],
    }


def draw(results: Results):
    """Left: arms, a dot a seed. Right: by pattern, CLIP against SSL and I-MoF."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    order = ["clip", "ssl", results.amof, "imof", *_CONTROLS]
    colours = ["#0072b2", "#e69f00", "#cc79a7", "#009e73", *["#999999"] * len(_CONTROLS)]
    for y, (arm, colour) in enumerate(zip(order, colours)):
        values = results.pair_accuracy(arm)
        left.barh(y, values.mean(), color=colour, alpha=0.55)
        left.plot(values, np.full(len(values), y), "o", color=colour, markersize=5, markeredgecolor="black", markeredgewidth=0.5)
    left.set_yticks(range(len(order)), [ARMS[arm].title for arm in order])
    left.invert_yaxis()
    left.axvline(25, color="black", linewidth=0.8, linestyle=":")
    left.set(xlabel="pairs right, test (%); dots are seeds, dotted: chance")
    x = np.arange(len(PATTERNS))
    for arm, colour, shift in zip(("clip", "ssl", "imof", "clip-clip"), ("#0072b2", "#e69f00", "#009e73", "#999999"), (-0.3, -0.1, 0.1, 0.3)):
        values = results.by_pattern(arm)
        right.bar(x + shift, values.mean(0), 0.19, color=colour, alpha=0.75, label=ARMS[arm].title)
        for row in values:
            right.plot(x + shift, row, ".", color="black", markersize=3)
    right.set_xticks(x, PATTERNS, rotation=25)
    right.axhline(25, color="black", linewidth=0.8, linestyle=":")
    right.set(ylabel="pairs right, test (%)", ylim=(0, 100))
    right.legend(frameon=False, fontsize="small", ncols=2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
