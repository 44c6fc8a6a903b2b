"""A config that any slice of the tests divides, for any number of steps."""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    c = ConfigDict(dict(steps=20, batch_size=256, optimizer=dict(schedule=dict(kind="constant"))))
    c.model = dict(embed_dim=8, image=dict(width=8, depth=1, heads=1, patch_size=8, image_size=8),
                   text=dict(width=8, depth=1, heads=1))
    return c
