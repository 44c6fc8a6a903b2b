"""The tiny models of tests/parity, with the weights that torch libraries recorded, are the foreign models of these tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "parity"))
