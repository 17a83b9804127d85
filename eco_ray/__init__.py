"""eco_ray: AI training and serving on Ray, where and when the electricity is cleanest."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eco_ray.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["Client", "AsyncClient"]


def __getattr__(name: str) -> Any:
    """Import the clients when one is used: the command line and most programs use none."""
    if name in __all__:
        from eco_ray import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
