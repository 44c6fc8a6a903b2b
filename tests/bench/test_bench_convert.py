"""The conversion benchmark, on a model of a few million parameters."""

from __future__ import annotations

from mof_jax import cli
from mof_jax.bench import convert
from mof_jax.interop.source import Source


def test_every_contestant_is_measured_and_the_way_back_checked(capsys):
    assert cli.main(["bench", "convert", "--params", "4e6"]) == 0
    out = capsys.readouterr().out
    for column in ("our reader", "import", "export", "peak GB", "÷ file"):
        assert column in out


def test_the_model_has_about_as_many_parameters_as_asked_for(tmp_path):
    size = convert.write(str(tmp_path / "m"), 8e6, "bf16")
    source = Source.open(f"hf:{tmp_path}/m")
    assert 8e6 <= size / 2 == sum(x.size for x in source.shapes.values()) < 14e6
    assert source.weights.dtype(source.weights.names[0]).name == "bfloat16"
    assert convert.depth(2048) == 21
