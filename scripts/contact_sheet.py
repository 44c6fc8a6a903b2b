"""Draws `docs/emoji5.png`: what the embedded pictures look like, one line a vendor and one column a concept.

    python scripts/contact_sheet.py docs/emoji5.png
    python scripts/contact_sheet.py /tmp/page.png --split unseen --columns 12 --rows 16    # a page of any split
"""

from __future__ import annotations

import argparse
import sys

from mof_jax.data.image.contact import comparison_sheet, contact_sheet
from mof_jax.data.worlds.embedded import EVAL_VENDORS, SPLITS, TRAIN_VENDORS, Emoji5
from mof_jax.errors import exit_code

LABELS = (
    "robot",
    "astronaut",
    "octopus",
    "turtle",
    "sunflower",
    "hamburger",
    "castle",
    "rocket",
    "teddy bear",
    "saxophone",
    "umbrella",
    "flag: Japan",
    "flag: Brazil",
)


def vendors_side_by_side():
    """One line a vendor, one column a concept; the last line is the evaluation vendor."""
    records = {}
    for source in (Emoji5("train"), Emoji5("twemoji")):
        for record in source:
            records[record.attributes["label"], record.attributes["vendor"]] = record
    titles = {vendor: vendor for vendor in TRAIN_VENDORS} | {vendor: f"{vendor} (eval)" for vendor in EVAL_VENDORS}
    lines = [(title, [records.get((label, vendor)) for label in LABELS]) for vendor, title in titles.items()]
    return comparison_sheet(lines, LABELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="PNG file to write")
    parser.add_argument("--split", choices=SPLITS, help="show a page of this split instead")
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--rows", type=int, default=12)
    args = parser.parse_args()
    page = contact_sheet(Emoji5(args.split), args.columns, args.rows) if args.split else vendors_side_by_side()
    page.save(args.out, optimize=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
