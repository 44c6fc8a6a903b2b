"""Every test sees eight CPU devices, so that sharded code runs sharded, and compiles fast rather than well."""

import collections
import os

import pytest

# Before anything imports jax: the backend reads them once. Compiling is most of the suite's time, and XLA's older emitters of
# fusions take half as long as those that make faster programs.
os.environ["JAX_PLATFORMS"] = "cpu"
for flag in ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0",
             "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files of few tests first: they are the longest, and as the last ones each would run on one core while the other waits."""
    tests = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (tests[item.path], item.path))
