"""Plans as pictures: does it fit, what bounds it, what does it cost. From the records that `mof plan --json` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib.util
import pathlib
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from mof_jax import config as configs
from mof_jax import console
from mof_jax.errors import UserError
from mof_jax.hardware import Throughput, Topology
from mof_jax.plan.cost import sketch, stages
from mof_jax.scaling.frontier import cost
from mof_jax.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOCKS = {"compute": BLUE, "memory": GREEN, "ici": ORANGE, "dcn": VERMILION}
_SAID = {"compute": "compute", "memory": "memory (HBM)", "ici": "links (ICI)", "dcn": "network (DCN)"}


def parts(record: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of one device by what holds them; they add up to what the compiler says a device needs.

    Raises:
      UserError: a plan that the compiler refused: it says no more than a total.
    """
    memory, state = record["memory"], record["state"]
    if memory is None:
        raise UserError(f"{record['name']} on {record['topology']}: does not fit; only a total is known")
    return {"parameters": state["params"] + state["frozen"], "optimizer": state["opt"], "average": state["ema"],
            "batch and the rest": memory["arguments"] - state["state"], "new outputs": memory["outputs"] - memory["aliased"],
            "activations, gradients, temporaries": memory["temporaries"]}


@styled
def memory(records: Sequence[Mapping[str, Any]]) -> Figure:
    """A stacked bar a plan, as a share of its device's HBM."""
    shades = dict(zip(("parameters", "optimizer", "average", "batch and the rest", "new outputs",
                       "activations, gradients, temporaries"), (BLUE, ORANGE, PURPLE, GREY, SKY, GREEN)))
    fig, (axes,) = figure(1, 8.2, height=0.9 + 0.42 * len(records))
    labels = [_label(record) for record in records]
    for y, record in enumerate(records):
        left, share = 0.0, 100 / record["hbm"]
        whole = parts(record) if record["memory"] else {}
        for name, size in whole.items():
            axes.barh(y, size * share, left=left, color=shades[name], height=0.62)
            left += size * share
        if not whole and record["needs"]:
            left = record["needs"] * share
            axes.barh(y, left, color="white", edgecolor=VERMILION, hatch="//", height=0.62)
        needs = "refused" if record["needs"] is None else f"{record['needs'] / 2**30:.1f} of {record['hbm'] / 2**30:.1f} GiB"
        axes.text(left + 2, y, needs + ("" if record["fits"] else ", does not fit"), va="center", fontsize=8,
                  bbox=dict(color="white", pad=0.5))
    axes.axvline(100, color="black", linewidth=1.5, zorder=2)
    axes.set_yticks(range(len(records)), labels)
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.set(xlabel="% of one device's HBM", xlim=(0, 1.05 * max(115.0, *(100 * (r["needs"] or 0) / r["hbm"] for r in records))))
    axes.grid(axis="y", visible=False)
    handles = [axes.barh(0, 0, color=shade) for shade in shades.values()]
    fig.legend(handles, shades, loc="outside upper center", ncols=3)
    return fig


@styled
def clocks(records: Sequence[Mapping[str, Any]]) -> Figure:
    """The four clocks of a step, and where it should end up: bars of what each would take alone (logarithmic seconds), the step
    that is expected at the config's MFU as a diamond. Plans that do not fit have none and are left out."""
    timed = [record for record in records if "roofline" in record]
    fig, (axes,) = figure(1, 8.2, height=1.0 + 0.62 * len(timed))
    lowest = min(value for r in timed for name in CLOCKS if (value := r["roofline"][name]) > 0)
    for y, record in enumerate(timed):
        for i, (name, colour) in enumerate(CLOCKS.items()):
            value = record["roofline"][name]
            if value > 0:
                axes.barh(y + 0.18 * (i - 1.5), value - lowest / 3, left=lowest / 3, color=colour, height=0.17)
        axes.plot(record["seconds"], y, "D", color="black", markersize=5)
        axes.text(record["seconds"], y, f"   bound by {_SAID[record['limit']]}, MFU at most {record['mfu_bound']:.0%}",
                  va="center", fontsize=8)
    axes.set_yticks(range(len(timed)), [_label(record) for record in timed])
    axes.set_ylim(len(timed) - 0.5, -0.5)
    axes.set(xscale="log", xlabel="seconds of a step; ◆ expected at the config's MFU")
    axes.set_xlim(lowest / 3, 40 * max(record["seconds"] for record in timed))
    axes.grid(axis="y", visible=False)
    handles = [axes.barh(0, 0, left=lowest, color=colour) for colour in CLOCKS.values()]
    fig.legend(handles, [_SAID[name] for name in CLOCKS], loc="outside upper center", ncols=4)
    return fig


def costs(records: Sequence[Mapping[str, Any]], prices: Mapping[str, float]) -> Table:
    """Chips × days × dollars of whole runs.

    Args:
      prices: dollars a chip-hour by generation; a plan's own price comes first.
    """
    rows = []
    for record in records:
        generation = Topology.parse(record["topology"]).generation
        if "chip_hours" not in record:
            rows.append((_label(record), f"{record['chips']:,}", *("–",) * 5, "does not fit"))
            continue
        hours, price = record["chip_hours"], prices.get(generation)
        dollars = record["dollars"] if record["dollars"] is not None else price and hours * price
        days = hours / record["chips"] / 24
        rows.append((_label(record), f"{record['chips']:,}", f"{record['seconds']:.2f}", f"{record['steps']:,}", f"{days:,.1f}",
                     f"{hours:,.0f}", "–" if dollars is None else f"${dollars:,.0f}", record["limit"]))
    return console.table("Runs as planned", ("run", "chips", "s a step", "steps", "days", "chip-hours", "dollars", "bound by"),
                         rows)


def slices(config: str, topologies: Sequence[str], prices: Mapping[str, float], mfu: float = 0.4) -> Table:
    """The same run on other slices, by division: its FLOPs by formula over the peak at an assumed MFU. Nothing is compiled, so
    whether it fits is for `mof plan` to say.

    Args:
      config: `FILE.py[:arg]`. prices: dollars a chip-hour by generation.
    """
    runs = stages(configs.load(config))
    flops = sum(sum(sketch(run).flops.values()) * run.steps for run in runs.values())
    rows = []
    for text in topologies:
        found = cost(flops, Throughput(text, mfu), prices.get(Topology.parse(text).generation))
        dollars = "–" if found.dollars is None else f"${found.dollars:,.0f}"
        rows.append((text, f"{found.chips:,}", f"{found.days:,.1f}", f"{found.chip_hours:,.0f}", dollars))
    return console.table(f"{_name(config)}: {flops:.3g} FLOP at {mfu:.0%} of the peak",
                         ("slice", "chips", "days", "chip-hours", "dollars"), rows)


def compile_here(config: str, topology: str) -> Any:
    """The tables of a plan compiled now for a slice that is not here; a line that says how, where there is no libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        return Text(f"no libtpu here: `pip install -e .[plan]`, then `mof plan --config {config} --topology {topology}` "
                    "compiles the step for that slice")
    from mof_jax.plan import report

    name, run = list(stages(configs.load(config)).items())[-1]
    return report.show(report.plan(f"{_name(config)} {name}", run, Topology.parse(topology)))


def _name(config: str) -> str:
    path, colon, arg = config.partition(":")
    return "/".join(pathlib.Path(path).with_suffix("").parts[-2:]) + colon + arg


def _label(record: Mapping[str, Any]) -> str:
    """The config without its folder, what it was changed by, the stage, and the slice."""
    command, _, stage = record["name"].partition(", stage ")
    spec, *words = command.split()
    topology = record["topology"]
    spec = spec.replace(f"topology={topology}", "").rstrip(":,")  # said below
    changes = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    return ", ".join([_name(spec) + (stage and f":{stage}"), *changes]) + f"\n{topology}"
