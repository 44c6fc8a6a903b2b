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
# # Asking a model
# Pictures of a text, texts of a picture, classes without training, and the worst mistakes. The model here is the short run of
# `explore_run.ipynb`, trained in the second cell if it is not there yet, and it is right seldom; `make quickstart` trains a better
# one in four minutes (`../runs/quickstart`). Any source will do that a config can name.

# %%
from mof_jax.explore import browse, runs

WORKDIR = "../runs/notebook_clip"  # a work dir or WORKDIR/checkpoints/STEP; or an address: gs://bucket/run
SOURCE = dict(kind="emoji5", split="twemoji")  # an artist whom it has not seen, 1,734 pictures

# %%
if WORKDIR.startswith("../runs/notebook_"):
    runs.ensure(WORKDIR, "../configs/clip/quickstart_tiny.py")
browser = browse.Browser.open(WORKDIR, SOURCE)

# %% [markdown]
# ## Texts of your own, and pictures
# The first four are captions of the source (the right picture is framed), the others are free. On the right, the captions that
# are closest to a picture; the right one is blue.

# %%
browser.sheet(["globe showing Europe-Africa", "see-no-evil monkey", "red heart", "flag: Italy", "something to eat", "an animal"],
              [150, 430, 700, 900, 1200, 1500])

# %% [markdown]
# ## The worst mistakes
# Where what is right lies farthest below what was taken for it.

# %%
browser.mistakes()

# %% [markdown]
# ## Classes without training
# Every caption of the source is a class, prompts are an ensemble. First the surest guesses that are right, then the surest
# that are wrong.

# %%
guesses = browser.zero_shot(templates=["{}", "an emoji of {}", "a drawing of {}"])
print(f"{len(guesses.names):,} classes; the right one first {guesses.accuracy():.1f} %, among five {guesses.accuracy(5):.1f} %; "
      f"first by chance {100 / len(guesses.names):.2f} %")
guesses.sheet(8, right=True)

# %%
guesses.sheet(8, right=False)
