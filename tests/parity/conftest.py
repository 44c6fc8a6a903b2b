"""Live parity runs only where it is asked for: `-m parity` (transformers), `-m open_clip`. Then a library that is not
installed is an error, not a skip."""

import pathlib
import sys

LIVE = {"test_live.py": "parity", "test_conversion.py": "parity", "test_words.py": "parity", "test_pictures.py": "parity",
        "test_real.py": "parity", "test_keys.py": "parity", "test_sentences_live.py": "parity",
        "test_open_clip_keys.py": "open_clip", "test_open_clip.py": "open_clip", "test_open_clip_conversion.py": "open_clip"}
# Folders and whole models of other libraries are made by the helpers of tests/interop.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "interop"))


def pytest_configure(config):
    config.addinivalue_line("markers", "parity: runs the installed `transformers` (make test-parity)")
    config.addinivalue_line("markers", "open_clip: runs the installed `open_clip` and `timm` (make test-open-clip)")


def pytest_ignore_collect(collection_path, config):
    marker = LIVE.get(collection_path.name)
    return True if marker is not None and config.option.markexpr != marker else None
