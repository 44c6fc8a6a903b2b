"""Does a mixture of features mend what CLIP does not see? *Eyes Wide Shut?* (arXiv 2401.06209) at toy scale, with controls.

    towers ─ train, embed the world once ─▶ features ─▶ blind pairs, probes
                                                  └─▶ readers: one small MLLM a mixture and seed ─▶ report

`python -m mof_jax.studies.blindness --config configs/mof/reproduce.py --out runs/reproduce_mof`
"""
