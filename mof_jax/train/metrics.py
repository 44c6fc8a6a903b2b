"""What a run leaves to look at: TensorBoard events, and the clock behind throughput, data wait and MFU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import logging
import os
import shutil
import tempfile
import time
from typing import Any

import jax

from mof_jax import storage
from mof_jax.hardware import CHIPS

logger = logging.getLogger(__name__)

# Keys that say how fast a run was, not what it computed; comparisons of runs leave them out.
CLOCK_KEYS = (
    "time", "examples_per_s", "examples_per_s_per_device", "mfu", "tflops_per_device", "data_wait", "hbm_gb", "goodput",
    "skipped_examples", "seconds", "unix_time", "step_s", "host_s")

# Dense bf16 peak of one JAX device in FLOP/s, by `device_kind` prefix. TPU: Cloud TPU's system pages (v4 and v7x
# show two devices a chip under some runtimes: the figure is a device's). NVIDIA: data sheets, without sparsity.
PEAK_FLOPS = {
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device, None where we have no figure (a CPU)."""
    matches = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def hbm_gb() -> float | None:
    """Peak accelerator memory of this process's fullest device in GB, None where the runtime does not say."""
    stats = [d.memory_stats() for d in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    return max(peaks) / 1e9 if peaks else None


class TensorBoard:
    """Scalars for TensorBoard, process 0 only; for a remote directory written here and copied there at the end.

    They are for looking at: where they cannot be written, a line says so, once, and the run goes on without them. They are
    written as they come: tensorboardX's own writer has a thread and a short queue, and once the disk is full whoever adds to it
    waits for ever.
    """

    def __init__(self, directory: str):
        self._writer, self._target = None, directory if storage.is_remote(directory) else None
        if jax.process_index() == 0:
            from tensorboardX.event_file_writer import EventsWriter  # imported late: half a second of start-up

            self._folder = tempfile.mkdtemp() if self._target else directory
            with self._or_without():
                os.makedirs(self._folder, exist_ok=True)
                self._writer = EventsWriter(os.path.join(self._folder, "events"))

    def write(self, step: int, values: Mapping[str, Any], prefix: str = "train") -> None:
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with self._or_without():
            for key, value in values.items():
                if isinstance(value, (int, float)) and key not in ("step", "unix_time"):
                    self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(f"{prefix}/{key}", value)))
            self._writer.flush()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with self._or_without():
            writer.close()
        if self._target:
            for name in storage.find(self._folder):
                storage.write_atomic(storage.join(self._target, name), [storage.read(os.path.join(self._folder, name))])
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            logger.warning("%s: %s; the run goes on without TensorBoard", self._folder, storage.failure(error))


class Clock:
    """Throughput between two log lines.

    `data_wait` is the share of time in which the devices had nothing to do because the next batch was not there.
    """

    def __init__(self, batch_size: int, flops_per_step: float):
        self._batch, self._flops = batch_size, flops_per_step
        self._start = time.perf_counter()
        self._stepping = 0.0
        self.reset()

    def reset(self) -> None:
        self._mark, self._steps, self._wait, self._blocked = time.perf_counter(), 0, 0.0, 0.0

    def tick(self, waited: float, blocked: float = 0.0) -> None:
        """One more step, which waited `waited` seconds for its data with idle devices, and `blocked` for the devices."""
        self._steps += 1
        self._wait += waited
        self._blocked += blocked

    def read(self) -> dict[str, Any]:
        """Figures since the last reset, and resets."""
        now = time.perf_counter()
        seconds, devices = max(now - self._mark, 1e-9), jax.device_count()
        self._stepping += seconds - self._wait
        per_device = self._flops * self._steps / seconds / devices
        peak = peak_flops(jax.local_devices()[0])
        line = {
            "time": round(now - self._start, 3),
            "examples_per_s": round(self._batch * self._steps / seconds, 2),
            "examples_per_s_per_device": round(self._batch * self._steps / seconds / devices, 2),
            "tflops_per_device": round(per_device / 1e12, 4),
            "mfu": None if peak is None else round(per_device / peak, 4),
            "data_wait": round(self._wait / seconds, 4),
            "hbm_gb": hbm_gb(),
            "goodput": round(self._stepping / (now - self._start), 4),
            "step_s": round(seconds / max(self._steps, 1), 5),
            "host_s": round((seconds - self._blocked) / max(self._steps, 1), 5),
        }
        self.reset()
        return line
