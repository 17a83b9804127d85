"""The Python client of the control API (`service/control`): `Client` waits, `AsyncClient` lives in an event loop.

What is asked, what an answer means and when it is asked again is the same of both: `core`, `calls` and `stream`.
"""

from eco_ray.client.aio import AsyncClient
from eco_ray.client.sync import Client

__all__ = ["Client", "AsyncClient"]
