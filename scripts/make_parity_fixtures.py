"""Writes tests/parity/fixtures: weights, inputs and outputs of tiny models of other libraries, and their configs.

    pip install -e '.[parity]'   && python scripts/make_parity_fixtures.py transformers
    pip install -e '.[parity]'   && python scripts/make_parity_fixtures.py efficientnet
    pip install open_clip_torch  && python scripts/make_parity_fixtures.py open_clip

OpenCLIP is run apart from the others, because it wants different versions of torch and torchvision.
"""

import argparse
import importlib
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests" / "parity"
sys.path.insert(0, str(HERE))

RECORDED = {
    "transformers": ("clip", "siglip", "vit", "dinov2", "dinov2_registers", "dinov2_swiglu", "llama", "mistral",
                     "qwen2", "qwen3", "bert"),
    "efficientnet": ("efficientnet",),
    "open_clip": ("open_clip", "timm_gap"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=RECORDED)
    library = parser.parse_args().library
    source = importlib.import_module(f"parity_{library}")
    folder = HERE / "fixtures"
    folder.mkdir(exist_ok=True)
    for kind in RECORDED[library]:
        source.sample(kind, seed=0).save(folder / f"{kind}.npz")
    for kind in getattr(source, "LOSSES", ()):
        source.loss_sample(kind, seed=0).save(folder / f"loss_{kind}.npz")
    if hasattr(source, "configs"):
        path = folder / "configs.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | source.configs(), indent=1, sort_keys=True) + "\n")
    if library == "open_clip":
        source.positions_sample(seed=0).save(folder / "positions.npz")
    print(*(f"{path.stat().st_size:>8} {path.name}" for path in sorted(folder.iterdir())), sep="\n")


if __name__ == "__main__":
    main()
