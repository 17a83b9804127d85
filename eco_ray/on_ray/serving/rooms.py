"""What each node has, holds and emits, for whoever places replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from eco_ray.core.book import Book
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.grants import total
from eco_ray.core.replica_places import Room


def rooms_of(
    book: Book,
    held: Mapping[str, Resources],
    intensity_g_per_kwh: Callable[[str], float | None],
    model: str = "",
    asleep: Iterable[Node] = (),
) -> list[Room]:
    """A room for each node that is there, and for those `asleep`. `held`: what Ray has given away of it, by name.

    Beside that, our attempts keep of a GPU what their GPU memory takes of it, of which Ray knows nothing; and what is
    granted to replicas of other models than `model`, and not theirs by now, is not free either.
    """
    there = [
        Room(node, held.get(node.name, Resources()) + _beside(book, node, model), intensity_g_per_kwh(node.zone))
        for node in book.nodes.values()
    ]
    away = (node for node in asleep if node.name not in book.nodes)  # it may have come since somebody looked
    return there + [Room(node, Resources(), intensity_g_per_kwh(node.zone), asleep=True) for node in away]


def _beside(book: Book, node: Node, model: str) -> Resources:
    """What is kept on a node that Ray does not count."""
    demands = [job.spec.demand * attempt.workers for job, attempt in book.live() if attempt.node == node.name]
    parts = total(
        Resources(gpus=demand.reserved_on(node.capacity).gpus - demand.gpus)
        for demand in demands
        if demand.gpu_memory_gb
    )
    grants = [grant.demand.reserved_on(node.capacity) for grant in book.grants.on(node.name) if grant.model != model]
    waiting = total(grants) - book.grants.taken(node, book.foreign.get(node.name, Resources()))
    return parts + Resources(max(0.0, waiting.cpus), max(0.0, waiting.gpus), max(0.0, waiting.memory_gb))
