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
# # Plan a pod
# Does it fit, what bounds it, what does it cost: `docs/plans.jsonl` holds what the TPU's own compiler said of our configs
# (`make plan-all`); `mof plan --json` prints such a line for yours. Nothing here was run on a TPU.

# %%
from mof_jax.explore import plans
from mof_jax.plan.records import read
from mof_jax import console as shown

WORKDIR = "../docs/plans.jsonl"  # or an address: gs://bucket/plans.jsonl
PRICES = {"v5e": 1.2, "v5p": 4.2, "v6e": 2.7}  # dollars a chip-hour: an assumption, put in your contract's
everything = read(WORKDIR)
records = [r for r in everything if ":topology=" not in r["name"] and "px=336,topology=" not in r["name"]]  # on their first slices

# %% [markdown]
# ## Memory
# What one device holds while a step runs, against its HBM.

# %%
plans.memory(records)

# %% [markdown]
# ## Four clocks
# What the multiplications, HBM, the links and the network between slices would take, each alone. No step is faster than the
# slowest (`mof_jax/plan/roofline.py` says what is assumed); the diamond is where a run at the config's MFU ends up. MM1, on all
# slices that it names.

# %%
plans.clocks([r for r in everything if "/mm1/" in r["name"]])

# %% [markdown]
# ## Chips × days × dollars

# %%
plans.costs(everything, PRICES)

# %% [markdown]
# ## The same run elsewhere
# Its FLOPs by formula (no compiler is asked) over the peak of other slices.

# %%
plans.slices("../configs/clip/vit_l14.py", ["v5e:8x8", "v5e:16x16", "v6e:8x8", "v6e:16x16", "v5p:4x4x8", "2*v5p:8x8x8"], PRICES)

# %% [markdown]
# ## Compile one now
# With libtpu (`pip install -e .[plan]`) a machine without a TPU compiles for slices that it does not have.

# %%
shown.show(plans.compile_here("../configs/clip/quickstart.py", "v5e:2x2"))
