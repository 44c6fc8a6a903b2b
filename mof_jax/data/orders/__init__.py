"""In which order examples come; a config names an order by `kind`."""

from __future__ import annotations

from mof_jax.data.orders.order import Order
from mof_jax.registry import Registry

ORDERS: Registry[Order] = Registry(__name__, Order, "order", default="shuffled")
