# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Scaling laws
# From the points of a sweep to laws with intervals, and an honest look at how far they reach. Two small sweeps (`mof sweep`),
# then a check on points whose law is known. A notebook takes fewer starts and resamples than `mof fit`, which has the same laws.

# %%
from mof_jax.bench.fit import TRUTH, points
from mof_jax.explore import laws
from mof_jax.plan.records import throughput
from mof_jax.scaling import frontier, plots, report
from mof_jax import console as shown

WORKDIR = "sweeps/{}_scaling.csv"  # tables, or work dirs of `mof sweep`: a row is a run
CLIP = WORKDIR.format("clip"), dict(N="non_embedding_parameters", D="examples", L="loss")
LM = WORKDIR.format("lm"), dict(N="non_embedding_parameters", D="tokens", L="loss")

# %% [markdown]
# ## CLIP: points, what was left out, and every law that they allow
# A law that the table does not allow says why: parabolas need several sizes at one budget, OpenCLIP's law a column of errors.

# %%
clip = laws.fit_all(CLIP[0], ["chinchilla", "power", "isoflop", "openclip"], CLIP[1])
shown.show(report.excluded(laws.load(CLIP[0], "chinchilla", CLIP[1])))
laws.intervals(clip)

# %%
pictures = plots.draw(clip.fits["chinchilla"])
pictures["fit"]

# %%
pictures["frontier"]

# %% [markdown]
# ## What the law does not say: residuals, and the largest runs predicted by the others

# %%
pictures["residuals"]

# %%
laws.reach(laws.extrapolate(laws.load(CLIP[0], "chinchilla", CLIP[1]), "chinchilla"))

# %% [markdown]
# The floor E is 0 and the orange warnings of `mof fit` are right: twenty points of a toy world, whose losses fall faster than a
# power law while the task is being learned, fix neither A nor B, and the largest runs lie below what the others foretold.

# %% [markdown]
# ## Language model
# The same on the embedded glossary, which can be learned by heart: no floor, and a form that does not hold over the whole range.

# %%
lm = laws.fit_all(LM[0], ["chinchilla", "power", "isoflop"], LM[1])
laws.intervals(lm)

# %%
plots.draw(lm.fits["chinchilla"])["fit"]

# %%
laws.reach(laws.extrapolate(laws.load(LM[0], "chinchilla", LM[1]), "chinchilla"))

# %% [markdown]
# ## Where the truth is known: Chinchilla
# 240 points drawn from the coefficients that Besiroglu et al. 2024 found, over the sizes and budgets of Hoffmann et al., with
# half a percent of noise. Each interval should hold 1.

# %%
drawn = laws.fit_all(points(240, 0.005, 0), ["chinchilla"])
laws.recovered(drawn.fits["chinchilla"], TRUTH)

# %%
plots.draw(drawn.fits["chinchilla"])["frontier"]

# %% [markdown]
# ## Where the truth is known: OpenCLIP's error
# ImageNet's zero-shot error falls as 5.858·C^−0.1114 (C in GMAC); drawn from that law and fitted as its authors fit.

# %%
openclip = laws.fit_all(laws.drawn_openclip(), ["openclip"])
laws.recovered(openclip.fits["openclip"], laws.IMAGENET)

# %%
plots.draw(openclip.fits["openclip"])["fit"]

# %% [markdown]
# ## From a law to a plan
# What to train for 10²² FLOP by the drawn Chinchilla points, and what that takes on a v5p slice at the throughput of a compiled
# plan, that of MM1 7B.

# %%
compiled = throughput("../docs/plans.jsonl#configs/mm1/pretrain_7b.py")
shown.show(report.planned(frontier.plan(drawn.fits["chinchilla"], 1e22, compiled, price=4.2)))
