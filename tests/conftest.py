"""Every test sees eight CPU devices, so that sharded code runs sharded, and compiles fast rather than well."""

import os

# Before anything imports jax: the backend reads both once.
os.environ["JAX_PLATFORMS"] = "cpu"
for flag in ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
