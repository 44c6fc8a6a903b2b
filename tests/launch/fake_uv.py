"""Stands in for `uv` on a worker: a virtual environment of two small programs, and installs that only are written down."""

import json
import os
import pathlib
import sys

ROOT = pathlib.Path(os.environ["FAKE_CLOUD"])
HERE = pathlib.Path(__file__).parent


def program(path: pathlib.Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def main(argv: list[str]) -> int:
    plan = json.loads((ROOT / "plan.json").read_text())
    if argv[0] == "venv":
        folder = pathlib.Path(argv[-1]) / "bin"
        folder.mkdir(parents=True)
        program(folder / "mof", f'exec {sys.executable} -E -s -S {HERE / "fake_run.py"} "$@"')
        # Checks of a real worker are tested in test_preflight.py; here they say what the plan wants.
        line, code = plan.get("preflight", ["all is well", 0])
        program(folder / "python", f'echo {line!r}; exit {code}')
        return 0
    if plan.get("install_error"):
        print(plan["install_error"], file=sys.stderr)
        return 1
    with open(ROOT / "installs.jsonl", "a") as f:
        f.write(json.dumps(argv) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
