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
# # Runs beside each other
# Which keys of their configs differ, their curves over steps, over examples and over compute, and where they ended. The two runs
# here differ in the width of their towers; each is trained in the second cell if it is not there yet (some 20 s).

# %%
from mof_jax.explore import curves, runs, tables

WORKDIR = "../runs/notebook_{}"  # or addresses: gs://bucket/{}
NAMES = ["width_64", "width_128"]

# %%
for name in NAMES:
    if WORKDIR.startswith("../runs/notebook_"):
        width = name.removeprefix("width_")
        runs.ensure(WORKDIR.format(name), f"../configs/clip/quickstart_tiny.py:width={width},steps=60,batch=96,every=20")
both = runs.read_all({name: WORKDIR.format(name) for name in NAMES})

# %% [markdown]
# ## What differs

# %%
runs.differences(both)

# %%
tables.compare(both, ["unseen/r@1", "unseen/r@5", "unseen/r@10"])

# %% [markdown]
# ## Curves
# A step of the wide model buys more, and costs more: over compute the order can turn. One seed, sixty steps: a look, no result.

# %%
curves.compare(both, "loss", smoothing=0.4)

# %%
curves.evaluations(both, ["unseen/r@5", "unseen/r@10"], over="flops")

# %% [markdown]
# ## Stability
# The norm of the gradient, and the temperature that the loss has learned.

# %%
curves.compare(both, "grad_norm", over=["step"])

# %%
curves.compare(both, "logit_scale", over=["step"], smoothing=0)
