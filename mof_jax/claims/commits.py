"""A claim is written down before it is run: the text of `claim()`, and the commit that says since when it
stands."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import subprocess
from typing import NamedTuple

from mof_jax.errors import UserError
from mof_jax.parsing import one_line


class Committed(NamedTuple):
    """Since when a claim stands as it is: the commit, its time in seconds since 1970, and the hash of the
    text."""

    commit: str
    time: int
    hash: str


def text_of(source: str, path: str) -> str:
    """The text of `claim` in a config file, with that of whatever of the file it refers to, by name, in the
    file's order.

    A constant or a function above `claim()` is a part of what is claimed.

    Raises:
      UserError: no Python, or no function `claim`.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}") from None
    named: dict[str, ast.stmt] = {}
    for node in tree.body:
        for name in _defined(node):
            named[name] = node
    if not isinstance(named.get("claim"), ast.FunctionDef):
        raise UserError(
            f"{path}: a config file with a claim defines claim(), which returns a mof_jax.claims.claim.Claim"
        )
    chosen: list[ast.stmt] = []
    queue = [named["claim"]]
    while queue:
        node = queue.pop()
        if node not in chosen:
            chosen.append(node)
            queue += [named[x.id] for x in ast.walk(node) if isinstance(x, ast.Name) and x.id in named]
    return "\n\n".join(
        ast.get_source_segment(source, node) for node in sorted(chosen, key=lambda node: node.lineno)
    )


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name)]


def hash_of(path: str) -> str:
    """The hash of a file's claim as it stands, sixteen hex digits.

    Raises:
      UserError: no such file, or as `text_of`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return _digest(text_of(file.read(), path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def committed(path: str) -> Committed | None:
    """The oldest commit since which a file's claim has been what it is now; None while it is not committed.

    Raises:
      UserError: no such file, no repository, or as `text_of`.
    """
    wanted, found = hash_of(path), None
    for line in git(path, "log", "--format=%H %ct", "--", os.path.abspath(path)).splitlines():
        commit, time = line.split()
        if hash_at(path, commit) != wanted:
            break
        found = Committed(commit, int(time), wanted)
    return found


def hash_at(path: str, commit: str) -> str | None:
    """The hash of a file's claim in a commit, None where it has none there."""
    try:
        name = git(path, "ls-files", "--full-name", "--", os.path.abspath(path)).strip()
        return _digest(text_of(git(path, "show", f"{commit}:{name}"), path))
    except UserError:
        return None


def time_of(path: str, commit: str) -> int | None:
    """The time of a commit that HEAD has behind it, in seconds since 1970; None for any other."""
    try:
        git(path, "merge-base", "--is-ancestor", commit, "HEAD")
        return int(git(path, "show", "--no-patch", "--format=%ct", f"{commit}^{{commit}}"))
    except UserError:
        return None


def code() -> str:
    """The commit that last changed this package, with `+` and a digest of what of it is not committed; its
    version where it is installed without its history."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        commit = git(package, "log", "-1", "--format=%H", "--", package).strip()
        changes = git(package, "diff", "HEAD", "--", package)
    except UserError:
        commit, changes = "", ""
    return (commit or f"version {importlib.metadata.version('mof_jax')}") + (
        f"+{_digest(changes)}" if changes else ""
    )


def git(path: str, *words: str) -> str:
    """What git says in the folder of a file.

    Raises:
      UserError: there is no git, no repository, or it refuses.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    try:
        run = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UserError(f"git: {error}; a claim needs the history of its file") from None
    if run.returncode:
        raise UserError(
            f"{path}: git {words[0]}: {one_line(run.stderr.strip()) or f'ended with {run.returncode}'}"
        )
    return run.stdout
