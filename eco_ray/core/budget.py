"""What a job may emit and use in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from eco_ray.core.fleet import Place
from eco_ray.core.jobs import Job, JobSpec, Plan, Reason
from eco_ray.core.situation import Measure, Mix, NoPlan, Situation
from eco_ray.core.units import J_PER_KWH
from eco_ray.errors import UsageError

#: kinds of places that are looked at one by one for a plan within the budget
_MOST_KINDS = 64
#: prices of energy that are tried for a job with both budgets, and the factor up to the next while one side is open
_BISECTIONS, _WIDER = 32, 4.0
#: mixes of added grams and what the budgets count that are tried
_MIXES = 10

#: the plan on some places that has the least of something; None where there is no room
Search = Callable[[Sequence[Place], Measure | Mix], Plan | None]


def within_budget(job: Job, plan: Plan, situation: Situation, places: Sequence[Place], search: Search) -> Plan | NoPlan:
    """The plan, else the greenest one that keeps to the job's budgets, else why it must not start.

    With what it used before, a job must not use more than its budgets. The greenest plan may be one on a clean node
    that draws much, or one that adds little and has a large share. Then the plans with the least energy and the least
    grams are looked for, one on each kind of place by itself, and those between the least and the greenest. What runs
    is stopped when the ledger has it above a budget (`overspent`), not before: a plan may be wrong about it. An
    intensity that is unknown forbids nothing.
    """
    if job.live_attempt is not None or (job.spec.budget_g is None and job.spec.budget_j is None):
        return plan
    limits = _Limits(job, situation, known=plan.carbon_g is not None)
    if limits.keeps(plan):
        return plan
    tried = [plan]
    fitting: list[Plan] = []
    latest_s = max(job.spec.deadline_s, plan.end_s) + 1e-6
    for other in _others(limits, places, search, fitting):
        if other.end_s <= latest_s:
            tried.append(other)
            if limits.keeps(other):
                fitting.append(other)
    if fitting:
        return min(fitting, key=lambda one: (math.inf if one.added_g is None else one.added_g, one.start_s))
    return limits.held(tried)


def _others(limits: _Limits, places: Sequence[Place], search: Search, fitting: Sequence[Plan]) -> Iterator[Plan]:
    """Plans that may keep to the budgets: with the least of what these count, then on each kind of place.

    The caller puts those that do into `fitting`.
    """
    eco = limits.job.spec.policy == "eco"
    plans = []
    for measure in limits.measures if eco else ():
        if plan := search(places, measure):
            plans.append(plan)
            yield plan
    if eco and len(limits.measures) == 1 and not fitting:
        return  # there is nothing with less
    kinds: dict[tuple[str, float, float], list[Place]] = {}
    for place in places:
        watts = place.node.attributed_power_w(limits.job.spec.demand)
        kinds.setdefault((place.node.zone, place.node.pue, round(watts, 6)), []).append(place)
    for alike in list(kinds.values())[:_MOST_KINDS]:
        for measure in (Measure.ADDED_G, *(limits.measures if eco and not fitting else ())):
            if plan := search(alike, measure):
                yield plan
    price = limits.mean_price(plans) if Measure.SHARE_J in limits.measures else 0.0
    if eco and len(limits.measures) > 1 and not fitting:
        for at, plan in _between(limits, places, search):
            price = at
            yield plan
    if eco and fitting:
        yield from _greener(limits, places, search, price)


def _between(limits: _Limits, places: Sequence[Place], search: Search) -> Iterator[tuple[float, Plan]]:
    """Plans between the least energy and the least grams, at prices of energy that come ever closer to what is needed.

    The dearer energy is, the less of it the least of both takes, and the more grams: bisection of the price.
    """
    low, high, step = -math.inf, math.inf, 0.0
    plans = [plan for measure in (Measure.SHARE_J, Measure.SHARE_G) if (plan := search(places, measure))]
    if len(plans) < 2 or (step := limits.price(*plans)) <= 0:
        return
    for _ in range(_BISECTIONS):
        at = math.sqrt(low * high) if low > 0 and high < math.inf else step
        plan = search(places, Mix(0.0, 1.0, at))
        if plan is None:
            return
        yield at, plan
        frugal, clean = (limits.keeps(plan, (measure,)) for measure in (Measure.SHARE_J, Measure.SHARE_G))
        if frugal == clean:
            return  # both: found; neither: nothing keeps to both
        low, high = (low, at) if frugal else (at, high)
        step = at / _WIDER if frugal else at * _WIDER


def _greener(limits: _Limits, places: Sequence[Place], search: Search, price: float) -> Iterator[Plan]:
    """Plans between the greenest, which breaks the budgets, and the least of what they count: bisection of the mix."""
    share = float(Measure.SHARE_G in limits.measures)
    low, high = 0.0, 1.0
    for _ in range(_MIXES):
        at = (low + high) / 2
        plan = search(places, Mix(at, (1 - at) * share, (1 - at) * price))
        if plan is None:
            return
        yield plan
        low, high = (at, high) if limits.keeps(plan) else (low, at)


def overspent(spec: JobSpec, energy_j: float, operational_g: float | None) -> str:
    """What a job has used, above one of its budgets; empty: it is within both."""
    if spec.budget_g is not None and operational_g is not None and operational_g > spec.budget_g:
        return f"has emitted {operational_g:.3g} g of its budget of {spec.budget_g:.3g} g"
    if spec.budget_j is not None and energy_j > spec.budget_j:
        return f"has used {energy_j / J_PER_KWH:.3g} kWh of its budget of {spec.budget_j / J_PER_KWH:.3g} kWh"
    return ""


def with_budgets(spec: JobSpec, budget_g: float | None, budget_j: float | None) -> JobSpec:
    """With other budgets; None: as they are. Raises UsageError for what is none."""
    for name, most in (("carbon_g", budget_g), ("energy_kwh", budget_j)):
        if most is not None and not 0 < most < math.inf:
            raise UsageError(f"a budget of {name} {most} is not above 0; give what the job may use in all")
    return replace(
        spec,
        budget_g=spec.budget_g if budget_g is None else budget_g,
        budget_j=spec.budget_j if budget_j is None else budget_j,
    )


def with_fewer_pauses(job: Job) -> Iterator[Job]:
    """The job, and in one piece where its pauses cost something: the choice between those is not exact."""
    yield job
    suspend = job.spec.suspend
    if job.pausable and suspend.allow and suspend.resume_cost_s + suspend.min_run_s > 0:
        yield replace(job, spec=replace(job.spec, suspend=replace(suspend, allow=False)))


def least_of(plans: Sequence[Plan | None], spec: JobSpec, situation: Situation, measure: Measure | Mix) -> Plan | None:
    """The plan that is in time if one is, and has the least by a measure; None where there is none."""

    def key(plan: Plan) -> tuple[bool, float]:
        uses = situation.measured(plan.segments, spec, measure)
        return plan.end_s > spec.deadline_s + 1e-6, math.inf if uses is None else uses

    return min((plan for plan in plans if plan is not None), key=key, default=None)


class _Limits:
    """The budgets of a job, and what plans use of them."""

    def __init__(self, job: Job, situation: Situation, *, known: bool) -> None:
        self.job, self._situation = job, situation
        #: a plan of unknown grams does not keep to a budget that one of known grams oversteps
        self._known = known
        budgets = {Measure.SHARE_J: job.spec.budget_j, Measure.SHARE_G: job.spec.budget_g}
        self._budgets = {measure: most for measure, most in budgets.items() if most is not None}
        self._before = {Measure.SHARE_J: job.used_j, Measure.SHARE_G: job.emitted_g}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the budgets count."""
        return tuple(self._budgets)

    def keeps(self, plan: Plan, measures: Sequence[Measure] = tuple(Measure)) -> bool:
        """Whether a plan keeps to all budgets, or to those of some measures, with what the job used before."""
        budgets = [(measure, most) for measure, most in self._budgets.items() if measure in measures]
        return not any(self._uses(plan, measure) > most * (1 + 1e-9) for measure, most in budgets)

    def price(self, frugal: Plan, clean: Plan) -> float:
        """Grams per joule at which the plans are equal; 0 where one has less of both, or nobody knows."""
        more_g, more_j = (
            self._uses(one, measure) - self._uses(other, measure)
            for one, other, measure in ((frugal, clean, Measure.SHARE_G), (clean, frugal, Measure.SHARE_J))
        )
        known = math.isfinite(more_g) and more_g > 0 and more_j > 0
        return more_g / more_j if known else 0.0

    def mean_price(self, plans: Sequence[Plan]) -> float:
        """Grams per joule of plans, 0 where nobody knows."""
        spec = self.job.spec
        joules = sum(self._situation.energy_j(plan.segments, spec) for plan in plans)
        return sum(plan.carbon_g or 0.0 for plan in plans) / joules if joules > 0 else 0.0

    def held(self, tried: Sequence[Plan]) -> NoPlan:
        """What to tell a job none of whose plans keeps to its budgets."""
        least = {measure: min(self._uses(plan, measure) for plan in tried) for measure in self._budgets}
        above = [measure for measure, most in self._budgets.items() if least[measure] > most * (1 + 1e-9)]
        if Measure.SHARE_J in above:
            needs_j, most_j = least[Measure.SHARE_J], self._budgets[Measure.SHARE_J]
            message = (
                f"would use {needs_j / 3.6e6:.3g} kWh at best, above its budget of {most_j / 3.6e6:.3g} kWh; "
                "raise carbon.budget.energy_kwh, or submit a shorter job"
            )
            return NoPlan(Reason.EXCEEDS_BUDGET, message, needs_j)
        needs_g, most_g = least[Measure.SHARE_G], self._budgets[Measure.SHARE_G]
        cure = "Raise carbon.budget.carbon_g, allow more zones or a later deadline"
        if above:
            message = (
                f"would emit {needs_g:.3g} g at best before its deadline, above its budget of {most_g:.3g} g; it "
                f"starts when a forecast allows less. {cure}"
            )
            return NoPlan(Reason.EXCEEDS_BUDGET, message, needs_g)
        both = [plan for plan in tried if self._uses(plan, Measure.SHARE_J) <= self._budgets[Measure.SHARE_J]]
        frugal_g = min((self._uses(plan, Measure.SHARE_G) for plan in both), default=needs_g)
        message = (
            f"would emit {frugal_g:.3g} g at best within its budget of energy, above its budget of {most_g:.3g} g; it "
            f"starts when a forecast allows less. {cure}, or raise carbon.budget.energy_kwh"
        )
        return NoPlan(Reason.EXCEEDS_BUDGET, message, frugal_g)

    def _uses(self, plan: Plan, measure: Measure) -> float:
        """What a plan uses of a budget, with what was used before [g or J]; nothing where nobody knows."""
        if measure is Measure.SHARE_J:
            ahead = self._situation.energy_j(plan.segments, self.job.spec)
        elif plan.carbon_g is None:
            return math.inf if self._known else -math.inf
        else:
            ahead = plan.carbon_g
        return ahead + self._before[measure]
