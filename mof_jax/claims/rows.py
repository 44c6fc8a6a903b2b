"""`docs/claims.jsonl`, a line a verdict, and `docs/claims.md`, the same as a table;
`docs/claims_pilots.jsonl`, a line a pilot.

Lines are only ever added. `check` says which of them do not stand: no claim older than its row, a text that
has changed since, a verdict that its own intervals do not give, a table that is another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import datetime
import fcntl
import json
import os
from typing import Any

from mof_jax.claims import commits
from mof_jax.claims.claim import SEEDS, Equivalence, Lead
from mof_jax.claims.verdict import Interval, judge, together
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, parse_object, show

ROWS, PILOTS, TABLE = "claims.jsonl", "claims_pilots.jsonl", "claims.md"

Row = dict[str, Any]
_KEYS = {
    "file": str,
    "says": str,
    "hash": str,
    "commit": str,
    "time": str,
    "metric": str,
    "arms": dict,
    "conditions": list,
    "verdict": str,
    "pilots": int,
    "data": str,
    "command": str,
    "code": str,
}


def read(path: str) -> list[Row]:
    """The lines of a file of rows; none where there is no file.

    Raises:
      UserError: a line that is no object.
    """
    if not os.path.exists(path):
        return []
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(file.read().split(b"\n"), 1):
            if line.strip():
                try:
                    found.append(parse_object(line))
                except Malformed as error:
                    raise UserError(f"{path} line {number}: {error}; take the line out") from None
    return found


def add(path: str, row: Row) -> None:
    """One line more, in one piece and behind a line break, whatever was torn before it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # until it is closed
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, b"\n" * torn + json.dumps(row, ensure_ascii=False).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_HEAD = """# Claims

Generated from `claims.jsonl` by `mof claim`. Shown: the 95 % paired bootstrap interval over independent
units is above 0 in each of three seeds; refuted: below 0 in each; else undecided. Equivalence: two one-sided
95 % bounds inside of the declared margin in each seed. Of several conditions all must hold.
"""
_COLUMNS = (
    "claim",
    "metric",
    "arms by seed",
    "lead by seed (95 % interval)",
    "verdict",
    "data",
    "pilots",
    "command",
)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    return "\n".join([_HEAD, *lines, *(f"| {' | '.join(map(_cell, _row(row)))} |" for row in rows)]) + "\n"


def _row(row: Row) -> list[str]:
    arms = "<br>".join(
        f"{arm}: {', '.join(f'{value:.4g}' for value in seeds.values())}"
        for arm, seeds in row["arms"].items()
    )
    leads = "<br>".join(
        f"{c['what']} ({c['metric']}): "
        + ", ".join(f"{x['lead']:+.3g} [{x['low']:+.3g}, {x['high']:+.3g}]" for x in c["seeds"].values())
        for c in row["conditions"]
    )
    return [
        f"{row['says']} ({row['file']})",
        row["metric"],
        arms,
        leads,
        f"**{row['verdict']}**",
        row["data"],
        str(row["pilots"]),
        f"`{row['command']}`",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def write_table(docs: str) -> None:
    """`claims.md` from `claims.jsonl`.

    Raises:
      UserError: no such folder.
    """
    _check_folder(docs)
    path = os.path.join(docs, TABLE)
    with open(f"{path}.part", "w", encoding="utf-8") as file:
        file.write(table(read(os.path.join(docs, ROWS))))
    os.replace(f"{path}.part", path)


def _check_folder(docs: str) -> None:
    if not os.path.isdir(docs):
        raise UserError(f"{docs}: no such folder")


def check(docs: str) -> list[str]:
    """What is wrong with the rows of a folder, a line each.

    Files are named from the root of the repository that `docs` lies in.

    Raises:
      UserError: no such folder, no repository, or rows that cannot be read.
    """
    _check_folder(docs)
    rows = read(os.path.join(docs, ROWS))
    root = commits.git(docs, "rev-parse", "--show-toplevel").strip() if rows else ""
    wrong = [f"{ROWS} line {number} ({show(row.get('file'))}): {fault}" for number, row in enumerate(rows, 1)
             if (fault := _fault(row, root))]
    try:
        with open(os.path.join(docs, TABLE), encoding="utf-8") as file:
            same = file.read() == table(rows) if not wrong else True
    except FileNotFoundError:
        same = not rows
    return (
        wrong
        if same
        else [*wrong, f"{TABLE}: is not what {ROWS} gives; write it again with mof claim --table"]
    )


def _fault(row: Row, root: str) -> str:
    """What is wrong with a row; nothing for one that stands."""
    if odd := next((key for key, kind in _KEYS.items() if not isinstance(row.get(key), kind)), None):
        return f"{odd!r} is missing, or of another type"
    path = os.path.join(root, row["file"].partition(":")[0])
    if not os.path.isfile(path):
        return "no such file"
    try:
        if commits.hash_of(path) != row["hash"]:
            return "the text of claim() has changed since; a new text is a new claim, with runs of its own"
        written = datetime.datetime.fromisoformat(row["time"]).timestamp()
    except (UserError, ValueError) as error:
        return str(error)
    began = commits.time_of(path, row["commit"])
    if began is None:
        return f"commit {row['commit'][:12]} of its claim is not in this history (a shallow clone has too little)"
    if commits.hash_at(path, row["commit"]) != row["hash"]:
        return f"commit {row['commit'][:12]} does not hold the text that was judged"
    if began > written:
        return f"its claim was committed after it was judged ({row['time']})"
    wanted = {str(seed) for seed in SEEDS}
    if not row["conditions"] or any(
        not isinstance(c, dict) or set(c.get("seeds") or ()) != wanted for c in row["conditions"]
    ):
        return f"has no condition, or one without the seeds {', '.join(map(str, SEEDS))}"
    try:
        given = together(verdict_of(condition) for condition in row["conditions"])
    except (KeyError, TypeError, AttributeError) as error:
        return f"its conditions cannot be read ({type(error).__name__}: {error})"
    return "" if given == row["verdict"] else f"its intervals say {given}, not {row['verdict']}"


def verdict_of(condition: Mapping[str, Any]) -> str:
    """The verdict that the intervals of a row's comparison give."""
    seeds = [Interval(**interval) for interval in condition["seeds"].values()]
    margin = condition["margin"]
    return judge(Lead("", "") if margin is None else Equivalence("", "", margin), seeds)
