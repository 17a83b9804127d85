"""Which zone answers the next request, so that any number of requests, a small one too, has the planned shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco_ray.core.serving import Shares

#: a way that nobody has told counts as so long [ms]: longer than any promise leaves, shorter than none
UNKNOWN_WAY_MS = 10_000.0
#: of counts and sums of shares
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Routes:
    """What a router has to know of a model."""

    #: zone of requests that do not say theirs
    home: str
    origins: tuple[str, ...]
    zones: tuple[str, ...]
    #: [origins][zones]; each row sums to 1
    shares: Shares
    #: from each origin to each zone and back [origins][zones]; None: nobody has told
    ways_ms: tuple[tuple[float | None, ...], ...]
    #: zones that have no replica up: who asks one waits for its start
    asleep: tuple[str, ...] = ()

    @classmethod
    def even(cls, zones: Sequence[str]) -> Routes:
        """Where nothing is known but the zones."""
        shares = (tuple(1 / len(zones) for _ in zones),)
        return cls("", ("",), tuple(zones), shares, ((None,) * len(zones),))

    def to_json(self) -> dict[str, Any]:
        """As it is kept and told."""
        return {
            "home": self.home,
            "origins": list(self.origins),
            "zones": list(self.zones),
            "shares": [list(row) for row in self.shares],
            "ways_ms": [list(row) for row in self.ways_ms],
            "asleep": list(self.asleep),
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Routes:
        """What `to_json` gave."""
        shares, ways = (tuple(map(tuple, told[key])) for key in ("shares", "ways_ms"))
        asleep = tuple(told.get("asleep", ()))
        return cls(told["home"], tuple(told["origins"]), tuple(told["zones"]), shares, ways, asleep)

    def origin(self, told: str) -> str:
        """The origin of a request that says `told`: that zone if it is one, else home."""
        if told in self.origins:
            return told
        return self.home if self.home in self.origins else self.origins[0]


class InTurn:
    """Gives each request a zone.

    Of the first n requests, for any n, each zone has less than one more or less than its share of n, while shares stay
    as they are (the chairman assignment problem: Tijdeman, Discrete Mathematics 32, 1980). Dice would be off by about
    the square root of n.
    """

    def __init__(self, count: int) -> None:
        """`count`: of zones."""
        #: what each zone is owed [requests]; in all, nothing
        self._owed = [0.0] * count

    def next(self, shares: Sequence[float]) -> int:
        """The zone of one more request; `shares` sum to 1.

        What a zone is owed stays while it has no share, so that one that comes and goes gets what it was there for.
        """
        able = [zone for zone, share in enumerate(shares) if share > 0]
        for zone in able:
            self._owed[zone] += shares[zone]
        most = 1 - 1 / max(2, 2 * len(able) - 2)  # that a zone may ever be owed
        due = [zone for zone in able if self._owed[zone] >= 1 - most - _ROUNDING]
        if due:  # who would be owed too much first
            found = min(due, key=lambda zone: ((most - self._owed[zone]) / shares[zone], zone))
        else:  # others are owed something, and have no share now
            found = max(able, key=lambda zone: (self._owed[zone], -zone))
        self._owed[found] -= 1
        return found


class Chooser:
    """The zones to be tried for each request, one after the other."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._in_turn: dict[tuple[str, str], InTurn] = {}

    @property
    def routes(self) -> Routes:
        """What it follows."""
        return self._routes

    def follow(self, routes: Routes) -> None:
        """From now on."""
        if routes.zones != self._routes.zones:
            self._in_turn = {}
        self._routes = routes

    def order(self, origin: str, away: Collection[str], kind: str = "") -> tuple[str, ...]:
        """All zones in the order in which they are to be tried for one more request of an origin (`Routes.origin`).

        Shares hold for each `kind` of requests by itself.

        The first is whose turn it is by the shares among those that are not `away`; then those with the shortest way.
        Those that are away come last: nobody knows for sure that they are.
        """
        routes = self._routes
        zones, row = routes.zones, routes.origins.index(origin)
        ways = [UNKNOWN_WAY_MS if way is None else way for way in routes.ways_ms[row]]
        there = [zone for zone, name in enumerate(zones) if name not in away] or list(range(len(zones)))
        shares = [routes.shares[row][zone] if zone in there else 0.0 for zone in range(len(zones))]
        total = sum(shares)
        if total <= _ROUNDING:  # all that have a share are away
            nearest = min(there, key=lambda zone: (ways[zone], zone))
            shares, total = [float(zone == nearest) for zone in range(len(zones))], 1.0
        in_turn = self._in_turn.setdefault((origin, kind), InTurn(len(zones)))
        first = in_turn.next([share / total for share in shares])
        after = sorted(
            (zone for zone in range(len(zones)) if zone != first),
            key=lambda zone: (zone not in there, ways[zone], -shares[zone], zone),
        )
        return tuple(zones[zone] for zone in (first, *after))
