"""Checks of a worker before a run, on all of them at once: `python -m launch.preflight --topology v5e:16x16 --workdir gs://…`.

A table; one line for each failing check, with what to do; exit 0, 1 for what a user mends, 79 for a host that does not keep up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from typing import Any

from mof_jax.errors import ExitCode, UserError

PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "mof_jax")

# `jax.Device.device_kind` (jax/_src/pallas/mosaic/tpu_info.py), and what is one chip at run time: v4's two cores are one device.
KINDS = {"v4": ("TPU v4",), "v5e": ("TPU v5 lite", "TPU v5e"), "v5p": ("TPU v5", "TPU v5p"), "v6e": ("TPU v6 lite", "TPU v6e"),
         "tpu7x": ("TPU7x", "TPU v7x")}
_ONE_DEVICE = ("v4",)


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding. `advice` is empty if it is fine; `host`: it is the machine's fault, another may do better."""

    name: str
    found: str
    advice: str = ""
    host: bool = False


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the checks compare with.

    Attributes:
      devices: in all hosts. kinds: names of their kind that are right.
      workdir: where the run will write.
      transfer, reduce: least bytes/s between a host and each of its devices, and of an all-reduce for each device.
      skew: most seconds between two clocks.
      megabytes: of the arrays that are sent.
    """

    devices: int
    kinds: tuple[str, ...]
    workdir: str
    transfer: float = 0.0
    reduce: float = 0.0
    skew: float = 5.0
    megabytes: int = 64


def wanted(args: argparse.Namespace) -> Wanted:
    """From flags; the bandwidths asked of a TPU are a tenth of what one chip's network has, so that only a broken one fails."""
    if args.topology is None:
        return Wanted(args.devices, (args.kind,), args.workdir, megabytes=args.megabytes)
    from mof_jax.hardware import Topology

    t = Topology.parse(args.topology)
    devices = t.chips if t.generation in _ONE_DEVICE else t.devices
    network = t.chip.ici if t.slices == 1 else t.chip.dcn
    return Wanted(devices, KINDS[t.generation], args.workdir, transfer=0.2e9, reduce=0.0 if devices == 1 else 0.1 * network / 2,
                  megabytes=args.megabytes)


def gather(value: Any) -> list[Any]:
    """`value` of every host, in order of their numbers; it must be JSON-able and the same call must run on each."""
    import jax

    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils
    import numpy as np

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(np.max(multihost_utils.process_allgather(np.asarray(data.size))))
    rows = multihost_utils.process_allgather(np.pad(data, (0, size - data.size), constant_values=ord(" ")))
    return [json.loads(bytes(row)) for row in rows]


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter; `-` for one that is not there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def check_versions(hosts: Sequence[str], found: Sequence[dict[str, str]]) -> Check:
    """All hosts must have the same."""
    for name in found[0]:
        values = {here[name] for here in found}
        if len(values) > 1:
            odd = [f"{host} {here[name]}" for host, here in zip(hosts, found) if here[name] != found[0][name]]
            return Check("versions", f"{name}: {hosts[0]} {found[0][name]}, {', '.join(odd[:4])}",
                         "install the same on all workers: name a commit as source.rev, then `setup` again")
    return Check("versions", ", ".join(f"{name} {value}" for name, value in found[0].items() if value != "-"))


def check_devices(want: Wanted) -> Check:
    """As many as the topology has, of its kind."""
    import jax

    count, kind = jax.device_count(), jax.devices()[0].device_kind
    found = f"{count} × {kind} on {jax.process_count()} hosts"
    if kind not in want.kinds:
        return Check("devices", found, f"expected {want.kinds[0]}: is libtpu installed (extra `tpu`), and does nothing else "
                     "hold the chips?")
    if count != want.devices:
        return Check("devices", found, f"expected {want.devices}: a host is missing or has broken chips; a new slice",
                     host=True)
    return Check("devices", found)


def check_transfer(want: Wanted) -> Check:
    """Bytes/s from the host to a device and back, of the slowest device of all hosts."""
    import jax
    import numpy as np

    data = np.ones(want.megabytes << 18, np.float32)

    def rates(device) -> list[float]:
        jax.device_put(data[:1], device).block_until_ready()
        start = time.perf_counter()
        there = jax.device_put(data, device).block_until_ready()
        middle = time.perf_counter()
        np.asarray(there).sum()
        return [data.nbytes / (middle - start), data.nbytes / (time.perf_counter() - middle)]

    every = gather([min(way) for way in zip(*map(rates, jax.local_devices()))])
    to, back = (min(way) for way in zip(*every))
    return _bandwidth("host to device", f"{to / 1e9:.2f} GB/s, back {back / 1e9:.2f}", min(to, back), want.transfer)


def check_reduce(want: Wanted) -> Check:
    """Bytes/s a device moves in an all-reduce over all of them: 2 (n - 1) / n of its share, as rings do."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    import numpy as np

    devices = np.asarray(jax.devices())
    mesh = Mesh(devices, ("all",))
    split, whole = NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())
    floats = want.megabytes << 18
    x = jax.jit(lambda: jnp.ones((devices.size, floats), jnp.float32), out_shardings=split)()
    total = jax.jit(lambda x: x.sum(0), out_shardings=whole)
    first = total(x).addressable_data(0)
    if float(first[0]) != devices.size:
        return Check("all-reduce", f"sum {float(first[0])} of {devices.size} ones", "the network adds wrongly; a new slice",
                     host=True)
    start = time.perf_counter()
    for _ in range(3):
        total(x).block_until_ready()
    moved = 3 * 4 * floats * 2 * (devices.size - 1) / devices.size
    rate = min(gather(moved / (time.perf_counter() - start)))
    return _bandwidth("all-reduce", f"{rate / 1e9:.2f} GB/s a device", rate, want.reduce)


def _bandwidth(name: str, found: str, rate: float, least: float) -> Check:
    if rate < least:
        return Check(name, found, f"expected at least {least / 1e9:.2f} GB/s; a new slice", host=True)
    return Check(name, found)


def check_bucket(want: Wanted, host: str) -> tuple[Check, float | None]:
    """Writes, reads and deletes one object; also the bucket's clock minus this one's, seconds, None if it tells no time."""
    import fsspec

    from mof_jax import storage

    path = storage.join(want.workdir, f".preflight-{host}-{os.getpid()}")
    token, patient = os.urandom(1 << 16), storage.Retry(attempts=3)
    try:
        start = time.time()
        fs, inner = fsspec.core.url_to_fs(path)
        if not storage.is_remote(path) or path.startswith(("file:", "local:")):
            fs.makedirs(os.path.dirname(inner), exist_ok=True)
        storage.write_atomic(path, [token], retry=patient)
        end = time.time()
        same = storage.read(path, retry=patient) == token
        skew = _bucket_skew(fs, inner, start, end)
        fs.rm_file(inner)
    except Exception as error:  # every store has errors of its own
        return Check("bucket", " ".join(str(error).split())[:300],
                     "may the workers' service account read, write and delete there "
                     "(roles/storage.objectUser), and does the bucket exist?"), None
    if not same:
        return Check("bucket", f"{path} came back with other bytes", "do not train with this store"), None
    return Check("bucket", f"wrote, read and deleted in {want.workdir}, {end - start:.2f} s to write"), skew


def _bucket_skew(fs: Any, path: str, start: float, end: float) -> float | None:
    """How far the time that the store gave an object lies outside the span in which it was written here."""
    try:
        written = fs.modified(path).timestamp()
    except (NotImplementedError, KeyError, AttributeError):
        return None
    return min(0.0, written - start) or max(0.0, written - end)


def check_clock(want: Wanted, hosts: Sequence[str], skew: float | None) -> Check:
    """Clocks of all hosts, read right after a barrier, and the bucket's."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("clock")
    times = gather(time.time())
    spread = max(times) - min(times)
    skews = [value for value in gather(skew) if value is not None]
    worst = max(map(abs, skews), default=0.0)
    found = f"{spread:.2f} s apart" + (f", {worst:.2f} s from the bucket's" if skews else "")
    if spread > want.skew:
        last = hosts[times.index(max(times))]
        return Check("clock", found, f"at most {want.skew:g} s: look at {last} (`timedatectl`); a new slice", host=True)
    if worst > want.skew:
        return Check("clock", found, f"at most {want.skew:g} s: `timedatectl` on the workers; stores refuse requests of a wrong "
                     "time", host=True)
    return Check("clock", found)


def inspect(want: Wanted) -> list[Check]:
    """All checks; every host gets the same list. A host whose bucket fails fails all."""
    host = socket.gethostname()
    hosts = gather(host)
    bucket, skew = check_bucket(want, host)
    buckets = [Check(**row) for row in gather(dataclasses.asdict(bucket))]
    bad = [dataclasses.replace(check, found=f"{name}: {check.found}") for name, check in zip(hosts, buckets) if check.advice]
    checks = [check_versions(hosts, gather(versions())), check_devices(want), (bad or buckets)[0]]
    if not checks[1].advice:
        checks += [check_transfer(want), check_reduce(want)]
    return [*checks, check_clock(want, hosts, skew)]


def verdict(checks: Sequence[Check]) -> int:
    """The exit code, alike on every host: 79 if only machines are to blame."""
    bad = [check for check in checks if check.advice]
    if not bad:
        return ExitCode.DONE
    return ExitCode.PEER_LOST if all(check.host for check in bad) else ExitCode.USER_ERROR


def report(checks: Sequence[Check], as_json: bool) -> None:
    """Prints the checks, the failing ones again as lines of their own."""
    bad = [check for check in checks if check.advice]
    if as_json:
        print(json.dumps({"ok": not bad, "checks": [dataclasses.asdict(check) for check in checks]}), flush=True)
    else:
        from rich.console import Console
        from rich.table import Table

        from mof_jax.console import plain

        table = Table("check", "", "found")
        for check in checks:
            table.add_row(plain(check.name), "fails" if check.advice else "ok", plain(check.found))
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    for check in bad:
        print(f"preflight: {check.name}: {check.found}: {check.advice}", flush=True)


def parser() -> argparse.ArgumentParser:
    """Flags."""
    p = argparse.ArgumentParser(prog="python -m launch.preflight", description="Checks of a worker before a run.")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--topology", metavar="GENERATION:AxB[xC]", help="what must be there")
    what.add_argument("--devices", type=int, help="how many must be there, of --kind")
    p.add_argument("--kind", default="cpu", help="with --devices")
    p.add_argument("--workdir", required=True, help="of the run; an object is written, read and deleted there")
    p.add_argument("--megabytes", type=int, default=64, help="of each transfer")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    p.add_argument("--then", nargs=argparse.REMAINDER, help="run this, in the place of this process, if all is well")
    return p


def main(argv: Sequence[str] | None = None, execute: Callable[[str, list[str]], Any] = os.execvp) -> int:
    """Runs the checks; returns the exit code."""
    from mof_jax.commands import add_processes, join_processes

    flags = parser()
    add_processes(flags)
    argv = list(sys.argv[1:] if argv is None else argv)
    args = flags.parse_args(argv)
    if args.then:
        # In a process of its own: the chips are free again when the run takes this one's place.
        code = subprocess.run([sys.executable, "-m", "launch.preflight", *argv[:argv.index("--then")]], check=False).returncode
        return code if code else execute(args.then[0], args.then)
    try:
        join_processes(args)
        import jax

        checks = inspect(wanted(args))
    except UserError as error:
        print(f"preflight: {error}", flush=True)
        return ExitCode.USER_ERROR
    except RuntimeError as error:  # JAX's own: no coordinator, a host that does not come, chips that are taken
        print(f"preflight: devices: {str(error).splitlines()[0][:300]}: a host or its chips do not answer; a new slice",
              flush=True)
        return ExitCode.PEER_LOST
    if jax.process_index() == 0:
        report(checks, args.json)
    return verdict(checks)


if __name__ == "__main__":
    sys.exit(main())
