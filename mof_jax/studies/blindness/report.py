"""The study as a page of tables and a picture. Verdicts on the hypotheses are computed, not written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import json
from typing import Any

import numpy as np
from scipy import stats

from mof_jax.data.pairs import PATTERNS
from mof_jax.errors import UserError
from mof_jax.evals.metrics.paired import bootstrap_interval, mcnemar
from mof_jax.evals.mmvp.correlation import Correlation, correlate
from mof_jax.studies.blindness.figure import draw
from mof_jax.studies.blindness.plan import ARMS, CONTROLS, SPLITS, Study
from mof_jax.studies.blindness.results import Difference, Results

_PAPER = (("LLaVA-1.5, 336 px, 576 tokens", 24.7, 37), ("LLaVA-1.5 + I-MoF, 224 px, 512 tokens", 28.0, 42))
_TESTS = ("test", "known")


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
    parts = [_head(results, name), _verdicts(results), _arms(results), _patterns(results), _ratios(results), _streams(results),
             _blindness(results), _dose(results), _probes(results), _correlation(results), _paper()]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def _several(values: Iterable[float]) -> str:
    return " · ".join(f"{value:.1f}" for value in values)


def _whole(values: Iterable[float]) -> list[str]:
    return [f"{value:.0f}" for value in values]


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _title(results: Results, arm: str) -> str:
    return f"{ARMS[arm].title} (the dev world's choice)" if arm == results.amof else ARMS[arm].title


def _main_arms(results: Results) -> list[str]:
    return ["clip", "ssl", results.amof, "imof", *CONTROLS]


def _head(results: Results, name: str) -> str:
    s = results.study
    return f"""# Does a mixture of features mend CLIP's blind spots? A toy answer

`make reproduce-mof` wrote this page, `{name}.png` and `{name}.json`. What was expected is in
`{name}_plan.md`, written before the run.

Pictures of {s.pixels} px, {s.pairs} pairs a pattern in `test` (an artist whom no training picture shows) and in `known` (the
artists of training); in both, things stand on grounds where training never showed them. Seeds {', '.join(map(str, s.seeds))}, of
towers, language model and reader alike. Pair accuracy in percent: guessing gives 25, always the same answer 0.

![pair accuracy by arm and by pattern]({name}.png)"""


# --- verdicts -------------------------------------------------------------------------------------------------------------


def _verdicts(results: Results) -> str:
    """The seven hypotheses of the plan, each with what decides it."""
    s, first = results.study, results.study.seeds[0]
    blind = np.mean([results.patterned(results.blind(seed)) for seed in s.seeds], axis=0)
    paper = results.difference("imof", "clip")
    controls = {base: results.difference("imof", base) for base in CONTROLS}
    gain = lambda mixed, base: 100.0 * (results.pairs(mixed, first).astype(float) - results.pairs(base, first))
    doses = gain("imof", "clip"), gain("stated-imof", "stated-clip")
    shrunk = bootstrap_interval(doses[0] - doses[1])
    where = [results.blind_gain("imof", "clip", seed) for seed in s.seeds]
    naming = [np.mean(results.reader(arm, first)["splits"]["test"]["named"]) for arm in ("clip", *results.study.sweep, "ssl")]
    falls = stats.spearmanr(np.arange(len(naming)), naming).statistic if np.ptp(naming) else 0.0
    found = _correlated(results, "clip")
    rows = [
        ("1. blind pairs exist",
         f"{int((blind > 0).sum())} of {len(PATTERNS)} patterns have some, {blind.mean():.1f} % of all pairs",
         (blind > 0).sum() > len(PATTERNS) / 2),
        ("2. I-MoF above CLIP", f"{paper.mean:+.1f} points", paper.clear and paper.mean > 0),
        ("3. and above each control", ", ".join(f"{d.mean:+.1f} against {ARMS[base].title}" for base, d in controls.items()),
         all(d.clear and d.mean > 0 for d in controls.values())),
        ("4. its gain shrinks when captions state the fact", f"{doses[0].mean():+.1f} → {doses[1].mean():+.1f} points, by "
         f"{_interval((doses[0] - doses[1]).mean(), *shrunk)} (one seed)",
         shrunk[0] > 0),
        ("5. its gain is larger on blind pairs", ", ".join(_interval(*x) for x in where), all(low > 0 for _, low, _ in where)),
        ("6. naming falls with the SSL ratio",
         " → ".join(f"{100 * x:.0f}" for x in naming) + f" %, rank correlation {falls:+.2f} (one seed)",
         falls < 0),
        ("7. CLIP's score goes with the reader's", _r(found), found is not None and found.r > 0),
    ]
    return "## What was expected, and what came out\n\n" + _table(
        ["hypothesis", "what was found (test)", "holds"], [(a, b, "yes" if c else "no") for a, b, c in rows])


def _correlated(results: Results, arm: str) -> Correlation | None:
    """Pearson over the patterns between CLIP's own score and a reader's; None where either does not vary."""
    clip = dict(zip(PATTERNS, results.statements("clip", results.study.seeds)))
    try:
        return correlate(clip, dict(zip(PATTERNS, results.by_pattern(arm).mean(0))))
    except UserError:
        return None


def _r(found: Correlation | None) -> str:
    return "no variation" if found is None else f"r = {found.r:.2f}, p = {found.p:.2g}"


# --- tables ---------------------------------------------------------------------------------------------------------------


def _arms(results: Results) -> str:
    rows = [[_title(results, arm), f"**{results.pair_accuracy(arm).mean():.1f}**", _several(results.pair_accuracy(arm)),
             f"{results.pair_accuracy(arm, 'known').mean():.1f}", f"{results.other(arm, 'right').mean():.1f}",
             f"{results.other(arm, 'named').mean():.1f}", f"{results.other(arm, 'cider').mean():.0f}"]
            for arm in _main_arms(results)]
    table = _table(["arm", "pairs, test", "by seed", "pairs, known", "questions, test", "naming, test", "CIDEr-D, test"], rows)
    against = [*(("imof", base) for base in ("clip", *CONTROLS)), (results.amof, "clip"), ("ssl", "clip")]
    gaps = [[f"{ARMS[a].title} − {ARMS[b].title}", split, *_difference(results.difference(a, b, split))]
            for a, b in against for split in _TESTS]
    return f"""## The arms

{table}

Differences in points, each seed with its 95 % paired bootstrap interval; clear if every seed's interval leaves out 0.

{_table(["difference", "split", "mean", "by seed", "clear"], gaps)}"""


def _difference(d: Difference) -> list[str]:
    return [f"{d.mean:+.1f}", ", ".join(_interval(*seed) for seed in d.seeds), "yes" if d.clear and len(d.seeds) > 1 else "no"]


def _patterns(results: Results) -> str:
    arms = _main_arms(results)
    cell = lambda values: f"{values.mean():.0f} ({' '.join(_whole(values))})"
    tables = {split: _table([split, *(ARMS[arm].title for arm in arms)], [
        [pattern, *(cell(results.by_pattern(arm, split)[:, n]) for arm in arms)] for n, pattern in enumerate(PATTERNS)])
        for split in _TESTS}
    gaps = [[pattern, *_difference(results.difference("imof", "clip", pattern=pattern))] for pattern in PATTERNS]
    return f"""## By pattern

Pair accuracy, mean over seeds and each seed.

{tables["test"]}

{tables["known"]}

I-MoF − CLIP on `test` in points, each seed with its 95 % paired bootstrap interval.

{_table(["pattern", "mean", "by seed", "clear"], gaps)}"""


def _ratios(results: Results) -> str:
    first = results.study.seeds[0]
    arms = {"clip": "0", **{arm: f"{ARMS[arm].fusion.ssl_ratio:g}" for arm in results.study.sweep}, "ssl": "1",
            "amof-norm": "0.5, features normalised"}
    rows = []
    for arm, ratio in arms.items():
        accuracy = [f"{100 * results.pairs(arm, first, split).mean():.1f}" for split in SPLITS]
        test = results.reader(arm, first)["splits"]["test"]
        rows.append([ratio, *accuracy, f"{100 * np.mean(test['named']):.1f}", f"{test['cider']:.0f}"])
    norm = lambda kind: float(np.mean([results.probe(kind, seed)["norm"] for seed in results.study.seeds]))
    return f"""## A-MoF: the SSL ratio

Seed {first}. The dev world chose {ARMS[results.amof].fusion.ssl_ratio:g}. Mean norm of a patch: CLIP {norm("clip"):.1f},
SSL {norm("ssl"):.1f}.

{_table(["SSL ratio", *(f"pairs, {split}" for split in SPLITS), "naming, test", "CIDEr-D, test"], rows)}"""


def _streams(results: Results) -> str:
    rows = [["as trained", results.pair_accuracy("imof")]]
    for kind in results.reader("imof", results.study.seeds[0])["masked"]:
        rows.append([kind, [100 * np.all(results.reader("imof", seed)["masked"][kind], axis=1).mean()
                            for seed in results.study.seeds]])
    return f"""## What I-MoF uses

The trained models with one stream taken from other pictures, or replaced by its mean over pictures; `words` is the language
model before it saw a picture.

{_table(["stream", "pairs, test", "by seed"], [[kind, f"{np.mean(x):.1f}", _several(x)] for kind, x in rows])}"""


def _blindness(results: Results) -> str:
    s = results.study
    share = lambda below: np.mean([results.patterned(results.blind(seed, ssl_below=below)) for seed in s.seeds], axis=0)
    names = ("cos CLIP > 0.95, cos SSL < 0.6 (the paper's)", f"cos CLIP > {s.clip_above:g}, cos SSL re-fitted")
    gains = [[f"I-MoF − {ARMS[base].title}", split,
              ", ".join(_interval(*results.blind_gain("imof", base, seed, split)) for seed in s.seeds)]
             for base in ("clip", *CONTROLS) for split in _TESTS]
    fitted = ", ".join(f"{results.ssl_threshold(seed):.3f}" for seed in s.seeds)
    return f"""## CLIP-blind pairs

Share of the test pairs in percent, mean over seeds. CLIP's descriptor is its embedding as it is; the SSL tower's is all its
patches side by side, minus their mean over pictures (a masked autoencoder trains no pooled one). The second threshold re-fitted
to the {s.ssl_below:g} quantile of the dev pairs, by seed: {fitted}.

{_table(["pairs", *PATTERNS], [[name, *_whole(share(below))] for name, below in zip(names, (0.6, None))])}

Mined among all pictures of a split, whatever their scenes: mean over seeds of how many pairs are blind, and how many of those
are the two pictures of one scene.

{_table(["split", "cos SSL <", "pairs", "of a thousand", "pictures in them", "of one scene"], _mined(results))}

Gain on blind pairs minus gain on the others of the same patterns, by seed.

{_table(["gain", "split", "blind minus not blind"], gains)}"""


def _mined(results: Results) -> list[list[str]]:
    rows = []
    for split in _TESTS:
        for name, threshold in (("paper", "0.6"), ("fitted", "re-fitted")):
            found = [results.mined(seed)[f"{split}/{name}"] for seed in results.study.seeds]
            mean = lambda key: float(np.mean([one[key] for one in found]))
            rows.append([split, threshold, f"{mean('pairs'):,.0f}", f"{1000 * mean('share'):.2f}", f"{mean('images'):,.0f}",
                         f"{mean('own'):,.0f}"])
    return rows


def _dose(results: Results) -> str:
    first = results.study.seeds[0]
    value = lambda arm, split: 100 * float(results.pairs(arm, first, split).mean())
    doses = (("a quarter", "clip", "imof"), ("all", "stated-clip", "stated-imof"))
    pair = lambda base, mixed, split: (value(base, split), value(mixed, split))
    rows = [[split, share, f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}"]
            for split in _TESTS for share, base, mixed in doses for a, b in [pair(base, mixed, split)]]
    others = [[ARMS[arm].title, *(f"{value(arm, split):.1f}" for split in _TESTS)]
              for arm in ("ssl", "other-ssl", "imof", "other-imof")]
    return f"""## Dose and response, and the other SSL tower

Seed {first}: CLIP towers whose captions state the fact for a quarter of the pictures, and for all of them. If a mixture mends
what captions leave out, its gain must shrink.

{_table(["split", "captions that state the fact", "CLIP", "I-MoF", "gain"], rows)}

{_table(["arm (the other tower: DINO in place of MAE)", *(f"pairs, {split}" for split in _TESTS)], others)}"""


def _probes(results: Results) -> str:
    seeds = results.study.seeds
    towers = [("clip", seeds), ("ssl", seeds), ("random", seeds), ("stated", seeds[:1]), ("other", seeds[:1])]
    rows = []
    for split in _TESTS:
        for tower, of in towers:
            for kind in ("linear", "attentive"):
                found = results.probed(tower, of, kind, split)
                rows.append([tower, kind, split, f"{found.mean():.1f}", *_whole(found)])
    return f"""## What is in the features at all

Pair accuracy of probes: `linear` on the pooled feature, `attentive` on the patches. `stated` is CLIP whose captions always state
the fact, `other` is DINO, `random` the untrained tower.

{_table(["tower", "probe", "split", "mean", *PATTERNS], rows)}"""


def _correlation(results: Results) -> str:
    rows = [["CLIP's image score on the statements", *_whole(results.statements("clip", results.study.seeds)), ""]]
    for arm in ("clip", "imof"):
        accuracy = _whole(results.by_pattern(arm).mean(0))
        rows.append([f"the reader with {ARMS[arm].title}", *accuracy, _r(_correlated(results, arm))])
    return f"""## Does CLIP's weakness become the reader's?

Test, means over seeds; Pearson over nine patterns. The paper has r = 0.87 for LLaVA-1.5.

{_table(["", *PATTERNS, ""], rows)}"""


def _paper() -> str:
    more = _PAPER[1][2] - _PAPER[0][2]
    best = mcnemar(np.ones(more, bool), np.zeros(more, bool))
    rows = [[name, f"{value:.1f}", f"{pairs} of 150"] for name, value, pairs in _PAPER]
    return f"""## Beside the paper

{_table(["model", "MMVP", "pairs"], rows)}

{more} pairs more of 150: even if none was lost, McNemar's exact test gives p = {best:.3f}. The paper's gain for LLaVA-1.5 is not
significant by that test, whichever pairs changed; with LLaVA (5.5 → 16.7 at 224 px) it is large."""


def numbers(results: Results) -> dict[str, Any]:
    """Every figure of the page that another page might want."""
    arms, seeds = results.study.arms, results.study.seeds
    by_pattern = lambda values: {pattern: float(x) for pattern, x in zip(PATTERNS, values)}
    return {
        "ssl_ratio": ARMS[results.amof].fusion.ssl_ratio,
        "pair_accuracy": {split: {arm: results.pair_accuracy(arm, split).tolist() for arm in arms} for split in SPLITS},
        "by_pattern": {split: {arm: results.by_pattern(arm, split).tolist() for arm in arms} for split in _TESTS},
        "named": {arm: results.other(arm, "named").tolist() for arm in arms},
        "cider": {arm: results.other(arm, "cider").tolist() for arm in arms},
        "blind": by_pattern(np.mean([results.patterned(results.blind(seed)) for seed in seeds], axis=0)),
        "statements": by_pattern(results.statements("clip", seeds)),
        "captions": results.reader("imof", seeds[0])["splits"]["test"]["captions"],
    }
