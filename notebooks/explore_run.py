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
# # One run, from all sides
# What a run left in its work dir: curves, where its time went, its evaluations, its parameters and its config. Point `WORKDIR` at
# any run. The one here is the quickstart cut short, trained in the second cell if it is not there yet (under a minute).

# %%
from mof_jax.explore import curves, runs, tables

WORKDIR = "../runs/notebook_clip"  # or an address: gs://bucket/run

# %%
if WORKDIR.startswith("../runs/notebook_"):
    runs.ensure(WORKDIR, "../configs/clip/quickstart_tiny.py")
run = runs.Run.read(WORKDIR)

# %% [markdown]
# ## Curves
# Raw values are faint, an exponential average is bold. The last panel is the goodput: what wall time went to, over all restarts.

# %%
curves.overview(run)

# %%
tables.goodput(run)

# %% [markdown]
# ## Evaluations while it trained

# %%
curves.evaluations([run], ["unseen/r@1", "unseen/r@5", "unseen/r@10"])

# %%
tables.evaluations(run)

# %% [markdown]
# ## Parameters
# By the first names of their paths, with the optimizer's decisions: a factor of the learning rate, one of the weight decay.

# %%
tables.parameters(run, depth=2)

# %% [markdown]
# ## Anything else that it logged
# `run.keys` names every series; `run.series(key, over)` gives it over steps, examples or FLOPs.

# %%
print(", ".join(run.keys))
curves.compare([run], "positive_probability", over=["examples", "flops"])
