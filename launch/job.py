"""A job: one TOML (or JSON) file that says what runs where, for how long and at what price.

Names are checked before anything is created, so that a typo costs a second and not a queue.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import re
import tomllib
from typing import Any, Literal

from launch.exits import Ending
from launch.overrides import assignments, dotted, is_plain
from mof_jax import config as configs
from mof_jax.errors import UserError, nearest
from mof_jax.hardware import Topology
from mof_jax.parsing import decode, parse_object
from mof_jax.ranges import Count, NotNegative, Positive
from mof_jax.storage import is_remote, join

# docs.cloud.google.com/tpu/docs/runtimes; tpu7x has none, the Cloud TPU API does not offer it.
RUNTIMES = {"v4": "tpu-ubuntu2204-base", "v5e": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e"}

_NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"  # Google Cloud's rule of resource ids (RFC 1035 label)
_SECRETIVE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_REFERENCE = re.compile(r"env:[A-Za-z_]\w*|secret-manager:projects/[\w.:-]+/secrets/[\w-]+(/versions/(latest|\d+))?"
                        r"|kubernetes:[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[-._a-zA-Z0-9]+")


@dataclasses.dataclass(frozen=True)
class Source:
    """The code that the workers install: a git commit, or a wheel from this machine.

    Attributes:
      git, rev: repository (over https or ssh) and commit, tag or branch. A commit makes every restart run the same code.
      wheel: path of a wheel here; files: files and folders here that go beside it (config files are in no wheel).
      python: version of the workers' virtual environment. The TPU VM images bring 3.10, too old; uv fetches this one.
      extras: of the package.
    """

    git: str | None = None
    rev: str | None = None
    wheel: str | None = None
    files: tuple[str, ...] = ("configs",)
    python: str = "3.12"
    extras: tuple[str, ...] = ("tpu", "cloud")

    def __post_init__(self):
        if bool(self.git) == bool(self.wheel):
            raise ValueError("give either git (and rev) or wheel")
        if self.git and not self.rev:
            raise ValueError("rev is missing: name a commit, so that a restart runs the same code")
        if (self.git or "").startswith("-") or (self.rev or "").startswith("-"):
            raise ValueError("git and rev do not start with a dash")
        for key, path in (("wheel", self.wheel or ""), *(("files", file) for file in self.files)):
            if path.startswith("-") or ":" in path:  # `gcloud … scp` would take it for a flag, or for another machine
                raise ValueError(f"{key}: {path!r} is no path on this machine (no dash first, no colon)")
        if not re.fullmatch(r"3\.\d+(\.\d+)?", self.python):
            raise ValueError(f"python {self.python!r}: write a version, such as 3.12")
        for extra in self.extras:
            if not re.fullmatch(r"[a-z][-a-z0-9]*", extra):
                raise ValueError(f"extras: {extra!r} is no extra of a package")


@dataclasses.dataclass(frozen=True)
class Train:
    """`mof train --config CONFIG --config.KEY=VALUE …`, in the folder of the source.

    Attributes:
      config: a file in that folder, and in the one from which the job is launched: both are checked here before anything is
        created.
      overrides: dotted key to value, in TOML as `optimizer.lr = 1e-3` or `"optimizer.lr" = 1e-3`; other keys of a section stay.
      allow_change: keys that may differ from what the run in the work dir was trained with so far.
    """

    config: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    allow_change: tuple[str, ...] = ()

    def __post_init__(self):
        if self.config.startswith("-"):
            raise ValueError(f"config {self.config!r} begins with a dash")
        for key, value in self.overrides.items():
            if "=" in key or not all(key.split(".")):
                raise ValueError(f"overrides: {key!r} is no dotted key")
            if not is_plain(value):
                raise ValueError(f"overrides.{key}: {value} ({type(value).__name__}) is no value of a config; as text, quote it")
        for key in self.allow_change:
            if key.startswith("-"):
                raise ValueError(f"allow_change: {key!r} is no key")


@dataclasses.dataclass(frozen=True)
class Guard:
    """What a job may cost at most. Hours and dollars count while slices are held, over all attempts.

    Attributes:
      max_hours: then the run is asked to save, and torn down.
      max_dollars: the same by money; needs a price.
      price_per_chip_hour: dollars, by contract, region and capacity; by default `hardware.price` of the config.
      max_wait_hours: in the queue, each time; nothing is paid there.
      confirm: ask before the first create.
    """

    max_hours: Positive
    max_dollars: Positive | None = None
    price_per_chip_hour: Positive | None = None
    max_wait_hours: Positive = 24.0
    confirm: bool = True


@dataclasses.dataclass(frozen=True)
class Retry:
    """How patiently a job goes on.

    Attributes:
      attempts: slices in a row that may be lost before `progress_minutes` of training; a longer run counts anew.
      backoff_seconds: before the second attempt; doubles, ten minutes at most.
      poll_seconds: between two looks at slices and workers.
      patience_minutes: of workers out of reach, of expired credentials, of hosts that still run when another has ended.
      save_seconds: that a run gets to save when it is asked to stop.
      policy: class of exit (`oom`, `hang` …, see `launch.exits`) to `stop`, `rerun` or `recreate`, over the default.
    """

    attempts: Count = 5
    progress_minutes: NotNegative = 10.0
    backoff_seconds: Positive = 30.0
    poll_seconds: Positive = 60.0
    patience_minutes: Positive = 10.0
    save_seconds: Count = 300
    policy: dict[str, Literal["stop", "rerun", "recreate"]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        known = [ending.value for ending in Ending]
        for key in self.policy:
            if key not in known:
                raise ValueError(f"policy: no class of exits {key!r}{nearest(key, known)}")


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """Of the backend `tpu-vm`, queued resources of the Cloud TPU API.

    Attributes:
      runtime: by default the image of the generation.
      service_account: that the VMs act as; it needs the bucket, and `tpu.admin` for the workers' own deadline.
      iap: reach the workers through Identity-Aware Proxy, for VMs without external addresses.
    """

    runtime: str | None = None
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    internal_ips: bool = False
    iap: bool = False


@dataclasses.dataclass(frozen=True)
class Gke:
    """Of the backend `gke`, a JobSet.

    Attributes:
      cluster, location: a cluster with node pools of the topology, and JobSet installed.
      image: a container with mof_jax, `launch/` and the configs in its working directory.
      service_account: of Kubernetes, bound to one that may use the bucket.
      queue: of Kueue, if the cluster has it.
      reservation: that the nodes come from, with `capacity = "reserved"`.
      grace_seconds: from SIGTERM to SIGKILL. A spot node has 30 in all, so the loop saves at once.
    """

    cluster: str
    location: str
    image: str
    namespace: str = "default"
    service_account: str | None = None
    queue: str | None = None
    reservation: str | None = None
    grace_seconds: Count = 300

    def __post_init__(self):
        for key in ("cluster", "namespace", "service_account", "queue", "reservation"):
            value = getattr(self, key)
            if value is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
                raise ValueError(f"{key} {value!r}: lowercase letters, digits and dashes, 63 at most")
        if not re.fullmatch(r"[a-z]+-[a-z]+\d+(-[a-z])?", self.location):
            raise ValueError(f"location {self.location!r} is no region or zone, such as us-central1")


@dataclasses.dataclass(frozen=True)
class Job:
    """What runs where.

    Attributes:
      name: of the queued resource or JobSet; also of the nodes and of the folder on the workers.
      topology: as `mof_jax.hardware` reads it; by default `hardware.topology` of the config.
      workdir: in an object store, where checkpoints outlive the slice.
      preflight: check the workers before training.
      env: of the run, in clear. secrets: variable to `env:NAME` (of this machine), `secret-manager:projects/P/secrets/S`
        (read by the workers themselves; tpu-vm) or `kubernetes:SECRET/KEY` (gke). Values appear nowhere.
    """

    name: str
    project: str
    zone: str
    workdir: str
    train: Train
    guard: Guard
    topology: str | None = None
    backend: Literal["tpu-vm", "gke"] = "tpu-vm"
    capacity: Literal["on-demand", "spot", "reserved"] = "on-demand"
    source: Source | None = None
    preflight: bool = True
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)
    retry: Retry = Retry()
    tpu_vm: TpuVm = TpuVm()
    gke: Gke | None = None

    def __post_init__(self):
        if not re.fullmatch(_NAME, self.name) or len(self.name) > 63:
            raise ValueError(f"name {self.name!r}: lowercase letters, digits and dashes, a letter first, no dash last, "
                             "63 at most")
        if not re.fullmatch(rf"([a-z0-9.-]+:)?{_NAME}", self.project):
            raise ValueError(f"project {self.project!r} is no project id (lowercase letters, digits and dashes)")
        if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", self.zone):
            raise ValueError(f"zone {self.zone!r} is no zone, such as us-central2-b")
        if not is_remote(self.workdir):
            raise ValueError(f"workdir {self.workdir!r}: a slice's disk goes with the slice; write gs://BUCKET/PATH")
        if not re.fullmatch(r"gs://[^/*?\[]+(/[^*?\[]*)?", self.workdir):
            raise ValueError(f"workdir {self.workdir!r}: checkpoints go to gs://BUCKET/PATH, without *, ? or [")
        if self.guard.max_dollars is not None and self.guard.price_per_chip_hour is None:
            raise ValueError("guard.max_dollars needs guard.price_per_chip_hour (or hardware.price in the config)")
        self._check_backend()
        self._check_variables()
        for key, text in _texts(dataclasses.asdict(self)):
            if "\0" in text:
                raise ValueError(f"{key}: a NUL byte")

    def _check_backend(self) -> None:
        t = self.slices
        if self.backend == "tpu-vm":
            if self.source is None:
                raise ValueError("[source] is missing: the workers install a git commit or a wheel")
            if self.tpu_vm.runtime is None and t.generation not in RUNTIMES:
                raise ValueError(f"topology {t}: {t.generation} is offered on GKE only; set backend = \"gke\"")
            return
        if self.gke is None:
            raise ValueError('backend "gke" needs [gke] with cluster, location and image')
        if t.slices > 1 and t.hosts == t.slices:  # "Multislice availability", kubernetes-engine/docs/how-to/tpu-multislice
            raise ValueError(f"topology {t}: GKE joins slices of several hosts only")
        longest = f"{self.name}-slice-{t.slices - 1}-{t.hosts // t.slices - 1}-xxxxx"
        if len(longest) > 63:  # the pods' names and host names, which JobSet derives
            raise ValueError(f"name {self.name!r}: {len(longest) - 63} characters too long for a JobSet of {t}")

    def _check_variables(self) -> None:
        for key in (*self.env, *self.secrets):
            if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
                raise ValueError(f"env and secrets: {key!r} is no name of a variable")
        for key in self.env:
            if _SECRETIVE.search(key):
                raise ValueError(f"env.{key} looks like a secret; write it under [secrets] as \"env:{key}\"")
        for key, reference in self.secrets.items():
            if not _REFERENCE.fullmatch(reference):  # the text is not shown: it may be a secret pasted in
                raise ValueError(f"secrets.{key}: write env:NAME, secret-manager:projects/P/secrets/S or "
                                 "kubernetes:SECRET/KEY, never a value")
            kind = reference.partition(":")[0]
            if kind == ("kubernetes" if self.backend == "tpu-vm" else "secret-manager"):
                raise ValueError(f"secrets.{key}: {kind} does not exist on backend {self.backend}")

    @property
    def slices(self) -> Topology:
        """The topology, read.

        Raises:
          ValueError: there is none, neither here nor in the config.
        """
        if self.topology is None:
            raise ValueError("topology is missing, here and in the config (hardware.topology)")
        return Topology.parse(self.topology)

    @property
    def hosts(self) -> int:
        """Machines in all slices. The Cloud TPU API puts up to eight chips of v5e and v6e into one machine
        (docs.cloud.google.com/tpu/docs/v6e, "VM types"); GKE's pools of the same shape have two."""
        t = self.slices
        small = len(t.shape) == 2 and t.chips <= 8 * t.slices
        return t.slices if self.backend == "tpu-vm" and small else t.hosts

    @property
    def dollars_per_hour(self) -> float | None:
        """Of all slices; None without a price."""
        price = self.guard.price_per_chip_hour
        return None if price is None else price * self.slices.chips

    @property
    def hours(self) -> float:
        """How long slices may be held in all: what `max_hours` and `max_dollars` leave."""
        rate = self.dollars_per_hour
        return min(self.guard.max_hours, self.guard.max_dollars / rate if rate and self.guard.max_dollars else float("inf"))

    def train_command(self) -> list[str]:
        """The words that a worker runs, environment first."""
        words = ["env", *(f"{key}={value}" for key, value in self.env.items())] if self.env else []
        words += ["mof", "train", f"--config={self.train.config}", f"--workdir={self.workdir}"]
        if self.hosts > 1:
            words.append("--distributed")
        words += [f"--config.{assignment}" for assignment in assignments(self.train.overrides)]
        return words + [f"--allow-change={key}" for key in self.train.allow_change]

    def preflight_arguments(self) -> list[str]:
        """Flags of `launch.preflight`."""
        return [f"--topology={self.slices}", f"--workdir={self.workdir}", *(["--distributed"] if self.hosts > 1 else [])]


def _texts(value: Any, where: str = "job"):
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{where}.<key>", str(key)
            yield from _texts(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _texts(inner, f"{where}.{i}")


def load(path: str) -> Job:
    """The job in a TOML or JSON file; topology and price may come from the config file, if that is here.

    Raises:
      UserError: naming the file and the key.
    """
    return make(read(path), path)


def read(path: str) -> dict[str, Any]:
    """A job file as it stands. Raises `UserError` if it cannot be read."""
    try:
        with open(path, "rb") as f:
            text = decode(f.read())
        return parse_object(text) if path.endswith(".json") else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, Malformed, and `int` of too many digits
        raise UserError(f"{path}: {error}") from None


def make(values: Mapping[str, Any], where: str) -> Job:
    """A checked job from the content of a file.

    Raises:
      UserError: naming `where` and the key.
    """
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    train = values.get("train")
    if isinstance(train, dict) and isinstance(train.get("overrides"), Mapping):
        train["overrides"] = dotted(train["overrides"])
    hardware = _hardware(train)
    if "topology" not in values and hardware.get("topology"):
        values["topology"] = hardware["topology"]
    if isinstance(values.get("guard"), dict) and hardware.get("price"):
        values["guard"].setdefault("price_per_chip_hour", hardware["price"])
    return configs.build(Job, values, where)


def check(job: Job, where: str) -> None:
    """Resolves the config file with the job's overrides as its workers will, so that a mistake costs nothing yet.

    Raises:
      UserError: the file is not here, a key, a type or a number is wrong, or the slices do not divide mesh and batch.
    """
    path, colon, arg = job.train.config.partition(":")
    beside = job.source.files if job.source is not None and job.source.wheel else ()  # copied into the folder of the source
    places = [path, *(os.path.join(os.path.dirname(file.rstrip("/")), path) for file in beside
                      if os.path.basename(file.rstrip("/")) == path.split("/")[0])]
    here = next(filter(os.path.isfile, places), None)
    if here is None:
        raise UserError(f"{where}.train.config: {path} is not here; launch from the folder that the workers' code has it in, so "
                        "that it is checked before anything is created")
    from mof_jax.mesh import abstract_mesh, check_batch  # JAX is imported for it
    from mof_jax.plan.cost import stages
    from mof_jax.train.reliability import history
    from mof_jax.train.schedule import make_schedule

    try:
        runs = stages(configs.override(configs.load(f"{here}{colon}{arg}"), assignments(job.train.overrides))).values()
        for run in runs:
            mesh = abstract_mesh(run.mesh, job.slices.devices)
            check_batch(mesh, run.batch_size, run.microbatches)
            try:
                make_schedule(run.optimizer.schedule, run.steps)
            except ValueError as error:
                raise UserError(f"config.optimizer.schedule: {error}") from None
        history.check_allowed(job.train.allow_change, {key for run in runs for key in configs.flatten(configs.to_dict(run))})
    except UserError as error:
        raise UserError(f"{where}.train: {job.train.config}: {error}") from None


def _hardware(train: Any) -> dict[str, Any]:
    """`hardware` of the config file with the job's overrides, if both are to be had here."""
    train = train if isinstance(train, Mapping) else {}
    config, overrides = train.get("config"), train.get("overrides", {})
    if not isinstance(config, str) or not isinstance(overrides, Mapping) or not os.path.isfile(config.partition(":")[0]):
        return {}
    try:
        return configs.section(configs.override(configs.load(config), assignments(overrides)).to_dict(), "hardware")
    except UserError:  # which `check` says; a job is to be given back whatever has become of its config
        return {}


def child(values: Mapping[str, Any], run: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The job of one run of a sweep, `{"id": …, "config": …, "overrides": {…}}`, from the content of its base.

    The name is the base's and the id, the work dir a folder of the base's.

    Raises:
      UserError: a run of another form.
    """
    unknown = set(run) - {"id", "config", "overrides"}
    if unknown or not isinstance(run.get("id"), (str, int)) or not isinstance(run.get("overrides", {}), Mapping):
        raise UserError(f'{where}: a run looks like {{"id": "lr-3", "config": "configs/x.py", "overrides": {{"steps": 100}}}}')
    name = re.sub(r"[^a-z0-9]+", "-", str(run["id"]).lower()).strip("-")
    if not name:
        raise UserError(f"{where}: id {run['id']!r} has no letter or digit")
    train = dict(values.get("train", {}))
    train["config"] = run.get("config", train.get("config"))
    train["overrides"] = {**dotted(train.get("overrides", {})), **dotted(run.get("overrides", {}))}
    return {**values, "name": f"{values.get('name', '')}-{name}", "workdir": join(str(values.get("workdir", "")), name),
            "train": train}
