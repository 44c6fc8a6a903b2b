"""Runs the study, or goes on with it, and writes the report."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from mof_jax import config as configs
from mof_jax.errors import UserError, exit_code


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mof_jax.studies.blindness", description=__doc__)
    parser.add_argument("--config", default="configs/mof/reproduce.py", metavar="FILE.py")
    parser.add_argument("--out", default="runs/reproduce_mof", help="work dirs, features and results; run again to go on")
    parser.add_argument("--report", default="notebooks/reproduce_mof", metavar="PATH", help="PATH.md, PATH.png and PATH.json")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    args = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:  # an hour before it is needed
        raise UserError("the report's picture needs matplotlib: pip install -e .[notebooks]")
    from mof_jax.studies.blindness import jobs, report
    from mof_jax.studies.blindness.plan import Study

    study = configs.build(Study, configs.load(args.config).to_dict())
    jobs.run(study, args.out, args.workers)
    report.write(study, args.out, args.report)


if __name__ == "__main__":
    sys.exit(exit_code(main))
