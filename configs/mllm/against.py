"""How far a multimodal model of the quickstart is ahead of one that only reads, question by question.

    mof train --config configs/mllm/quickstart.py:blind=True --workdir runs/blind
    mof eval --checkpoint runs/mllm --evals configs/mllm/against.py:runs/blind

The argument is the work dir of the blind run. `lead_<kind>_low` is the lower end of the 95 % paired bootstrap interval.
"""

from ml_collections import ConfigDict


def get_config(arg="runs/blind"):
    evals = [dict(kind="questions", name=split, source=dict(kind="scenes", split=split, size=2000, pixels=48),
                  baseline=f"{arg}/mllm/answers/{split}.jsonl") for split in ("test", "twemoji")]
    return ConfigDict(dict(evals=evals))
