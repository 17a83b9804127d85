"""Nodes, the grid and the ledger behind HTTP: only looked at."""

from __future__ import annotations

from typing import Any

from eco_ray.api_model import BASE, GridForecast, GridNow, LedgerLine, NodeLine
from eco_ray.core.ledger_sums import BY, ledger_sums
from eco_ray.core.ports import GridSource, LiveGridSource
from eco_ray.service.control import cursor, documents, examples
from eco_ray.service.control.port import Control
from eco_ray.service.control.query import instant, text, whole, word
from eco_ray.service.control.route import READ, Ask, Good, Route, filters, link, told
from eco_ray.service.control.work import Work
from eco_ray.service.http import Answer
from eco_ray.service.problems import Problem

_HOUR_S = 3600.0
_NEXT = {"Link": "The next page, rel=next; missing on the last one"}
_SUMS = (
    word("by", BY, "What is summed by", "job"),
    instant("from", "Only from this instant (ISO 8601; without a zone: UTC)"),
    instant("to", "Only before this instant"),
    text("tenant", "Only what this tenant's jobs and models used; a key sees its own tenant's only"),
    text("zone", "Only what was used in this grid zone"),
    whole("limit", 1, 1000, 500, "At most so many lines"),
    cursor.CURSOR,
)
_FORECAST = (
    text("zone", "The grid zone", required=True),
    whole("hours", 1, 336, 24, "How far ahead"),
)


class Energy:
    """What is asked of energy and carbon."""

    def __init__(self, control: Control, grid: GridSource, work: Work) -> None:
        self._control, self._grid, self._work = control, grid, work

    def routes(self) -> list[Route]:
        """Their paths."""
        return [
            Route("GET", f"{BASE}/ledger", "Energy and operational carbon (location-based), summed", self._ledger,
                  READ, {200: Good("Some of the sums", list[LedgerLine], [examples.SUM], _NEXT)}, _SUMS),
            Route("GET", f"{BASE}/nodes", "Nodes with their zone", self._nodes, READ,
                  {200: Good("All nodes", list[NodeLine], [examples.NODE])}),
            Route("GET", f"{BASE}/grid/now", "Carbon intensity now, with its source and age", self._now, READ,
                  {200: Good("Zones", list[GridNow], [examples.NOW])},
                  (text("zone", "Only this zone; repeatable", many=True),), problems=(404,)),
            Route("GET", f"{BASE}/grid/forecast", "What is known about the next hours", self._forecast, READ,
                  {200: Good("The forecast", GridForecast, examples.FORECAST)}, _FORECAST, problems=(404,)),
        ]  # fmt: skip

    async def _ledger(self, ask: Ask) -> Answer:
        names = ("by", "from", "to", "tenant", "zone", "limit", "cursor")
        by, start_s, end_s, tenant, zone, limit, position = (ask.query[name] for name in names)
        if start_s is not None and end_s is not None and end_s <= start_s:
            raise Problem(400, "wrong query", "to is not after from: give a span with a length")
        if ask.tenant is not None and tenant not in (None, ask.tenant):
            raise Problem(403, "wrong tenant", "tenant is another one than the key's; leave it out")
        after = None if position is None else tuple(cursor.read(position, filters(ask), (str, bool)))

        def lines() -> tuple[list[dict[str, Any]], tuple[str, bool] | None]:
            sums = ledger_sums(self._control.hourly(start_s, end_s), by, tenant=ask.tenant or tenant, zone=zone)
            rest = [one for one in sums if after is None or (one.key, one.unallocated) > after]
            shown = rest[:limit]
            last = (shown[-1].key, shown[-1].unallocated) if len(rest) > limit else None
            return [documents.ledger_line(by, one) for one in shown], last

        found, last = await self._work(ask.of, lines)
        more = () if last is None else (link(ask, cursor.write(last, filters(ask))),)
        return told(found, ask.headers, 200, *more)

    async def _nodes(self, ask: Ask) -> Answer:
        nodes = await self._work(ask.of, self._control.nodes)
        if ask.tenant is not None:  # sums of all tenants: of two, each would see the other's
            nodes = [{**node, "energy_j": None, "unallocated_j": None} for node in nodes]
        return told(nodes, ask.headers)

    async def _now(self, ask: Ask) -> Answer:
        zones = ask.query["zone"]

        def rows() -> list[dict[str, Any]]:
            now_s = self._control.now_s()
            return [documents.grid_now(self._grid, zone, now_s) for zone in self._known(zones) or self._grid.zones()]

        return told(await self._work(ask.of, rows), ask.headers)

    async def _forecast(self, ask: Ask) -> Answer:
        zone, hours = ask.query["zone"], ask.query["hours"]

        def forecast() -> dict[str, Any]:
            now_s = self._control.now_s()
            self._known((zone,))
            return documents.grid_forecast(self._grid, zone, now_s, now_s + hours * _HOUR_S)

        return told(await self._work(ask.of, forecast), ask.headers)

    def _known(self, zones: tuple[str, ...]) -> tuple[str, ...]:
        """The zones, where there are such. Raises Problem: for any other, a live source would keep what it is asked."""
        there = self._grid.zones()
        for zone in zones:
            if zone not in there and (there or not isinstance(self._grid, LiveGridSource)):
                known = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
                raise Problem(404, "no such zone", f"no zone {zone!r}; the zones are {known}")
        return zones
