"""Small worlds for the tests of the report: a store, filled by hand."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np

from eco_ray.core.cluster import Resources
from eco_ray.core.embodied import Embodied
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Reason
from eco_ray.core.ledger import Interval, Sample, Share
from eco_ray.core.units import Nature
from eco_ray.store.memory import MemoryStore

H = 3600.0
#: as on_ray.facts writes it
KG_1000 = asdict(Embodied(1000.0, 0.0, "a data sheet", Nature.MODELLED, mass_g=20_000.0))
#: 2026-11-23T00:00:00Z
T0 = 1795392000.0


def series(zone, values, start_s=T0, step_s=H, nature=Nature.MODELLED, source="modelled profile"):
    return IntensitySeries(
        zone, start_s, step_s, np.array(values, dtype=float), SignalKind.AVERAGE_LIFECYCLE, source, nature
    )


def world(zones=("DE", "FR"), home="DE", speed=600.0, pue=1.0, **node_extra):
    """A store with a cluster of one node per zone, `a` in the first zone, `b` in the second..."""
    store = MemoryStore()
    nodes = [{"name": "abcdefgh"[i], "zone": z, "pue": pue, **node_extra} for i, z in enumerate(zones)]
    store.put_meta("cluster", {"name": "test", "home_zone": home, "nodes": nodes})
    store.put_meta("clock", {"speed": speed, "wall_origin_s": T0, "grid_origin_s": T0})
    return store


def attempt(number, node, zone, start_s, end_s, state=AttemptState.SUCCEEDED, **more):
    values = {"created_s": start_s, "started_s": start_s, "ended_s": end_s, **more}
    return Attempt(number, f"job-{number}", node, zone, state, **values)


def job(job_id, submitted_s, attempts=(), state=JobState.SUCCEEDED, reason=Reason.SUCCEEDED, **more):
    spec = JobSpec(
        name=more.pop("name", job_id),
        run="true",
        deadline_s=more.pop("deadline_s", submitted_s + 12 * H),
        demand=Resources(cpus=more.pop("cpus", 1.0)),
        tenant=more.pop("tenant", "default"),
    )
    message = more.pop("message", "Done.")
    return Job(job_id, spec, state, reason, message, submitted_s, attempts=tuple(attempts), **more)


class Meter:
    """Writes ledger rows: `charge` gives one interval of a node to an owner, `idle` gives it to nobody."""

    def __init__(self, store, pue=1.0):
        self.store, self.pue, self.seq = store, pue, 0

    def charge(self, node, zone, start_s, end_s, energy_mj, owner, intensity, rest_mj=0, number=1, kind="job", **more):
        self.seq += 1
        nature = more.get("nature", Nature.MODELLED)
        sample = Sample(node, "boot", self.seq, start_s, end_s, energy_mj + rest_mj, rest_mj, nature, "model", 0.4)
        shares = more.get("shares") or ((Share(kind, owner, number, energy_mj),) if owner else ())
        if not owner:
            sample = Sample(node, "boot", self.seq, start_s, end_s, rest_mj, rest_mj, nature, "model", 0.4)
        signal = {key: more[key] for key in ("intensity_kind", "intensity_age_s") if key in more}
        row = Interval(sample, zone, more.get("pue", self.pue), shares, intensity, "modelled profile", **signal)
        assert self.store.add_intervals([row]) == 1

    def run(self, node, zone, start_s, end_s, watts, owner, curve, idle_w=4.0, **more):
        """Ten-minute intervals at a power, under a curve of intensity."""
        at_s = start_s
        while at_s < end_s:
            stop_s = min(at_s + 600, end_s)
            energy_mj = round(watts * (stop_s - at_s) * 1000)
            rest_mj = round(idle_w * (stop_s - at_s) * 1000)
            intensity = curve.mean(at_s, stop_s) if curve else None
            self.charge(node, zone, at_s, stop_s, energy_mj, owner, intensity, rest_mj, **more)
            at_s = stop_s


#: hourly g/kWh of a day that begins at 00:00
SHAPES = {
    "DE": lambda h: 330 + 120 * math.cos((h - 19) / 24 * 2 * math.pi) - 90 * math.exp(-(((h % 24) - 13) ** 2) / 10),
    "FR": lambda h: 52 + 14 * math.cos((h - 19) / 24 * 2 * math.pi),
    "GB": lambda h: 205 + 70 * math.cos((h - 18) / 24 * 2 * math.pi) + 25 * math.sin(h / 3),
}


def demo_store():
    """A day like the demo's: delayed, suspended and resumed, moved, urgent, lost, failed, waiting, plain Ray jobs."""
    store = world(("DE", "FR", "GB"), pue=1.1, num_cpus=4, embodied=KG_1000)
    curves = {zone: series(zone, [shape(h) for h in range(48)]) for zone, shape in SHAPES.items()}
    for curve in curves.values():
        store.add_series(curve)
    meter = Meter(store, pue=1.1)
    n = AttemptState

    def at(hours):
        return T0 + hours * H

    def runs(job_id, node, zone, start, end, watts=22.0, number=1):
        meter.run(node, zone, at(start), at(end), watts, job_id, curves[zone], number=number)

    jobs = [
        job(
            "train-mnist-7f3a",
            at(6.2),
            [
                attempt(1, "a", "DE", at(10), at(12.5), n.PAUSED, checkpoint_s=at(12.5)),
                attempt(2, "b", "FR", at(14), at(17.2), productive_s=at(14.3)),
            ],
            name="train-mnist",
            tenant="vision",
            deadline_s=at(20),
            metrics={"accuracy": 0.9713, "epochs": 20, "loss": 0.09412},
        ),
        job(
            "linreg-01bc",
            at(6.3),
            [attempt(1, "b", "FR", at(11), at(12.4))],
            name="linear-regression",
            deadline_s=at(30),
            metrics={"mse": 0.010243, "mse_closed_form": 0.010241, "steps": 500},
        ),
        job(
            "urgent-9d",
            at(6.4),
            [attempt(1, "a", "DE", at(6.5), at(8.1))],
            name="evaluate (cannot wait)",
            deadline_s=at(8.6),
            metrics={"accuracy": 0.964},
        ),
        job(
            "lost-55",
            at(7),
            [
                attempt(1, "c", "GB", at(7.5), at(10.5), n.LOST, checkpoint_s=at(9.5), message="node c went away"),
                attempt(2, "c", "GB", at(12.6), at(15), productive_s=at(12.8)),
            ],
            name="fine-tune/überlange-Bezeichnung-ω-学習ジョブ-with-a-name-that-never-ends-and-then-some",
            deadline_s=at(19),
        ),
        job(
            "bad-3",
            at(8.5),
            [attempt(1, "c", "GB", at(10.7), at(11.2), n.FAILED, exit_code=3)],
            JobState.FAILED,
            Reason.FAILED,
            name="<b>broken</b> & co",
            message="exit code 3: No such file: data.npz; see `eco-ray job logs bad-3`",
            deadline_s=at(18),
        ),
        job(
            "later-77",
            at(12),
            [],
            JobState.QUEUED,
            Reason.WAITING_FOR_CLEANER_WINDOW,
            name="sweep-lr",
            message="Waits until 02:00 UTC in FR; saves 4.1 g against starting now.",
            deadline_s=at(40),
        ),
    ]
    store.save_jobs(jobs)
    runs("train-mnist-7f3a", "a", "DE", 10, 12.5)
    runs("train-mnist-7f3a", "b", "FR", 14, 17.2, number=2)
    runs("linreg-01bc", "b", "FR", 11, 12.4, 14)
    runs("urgent-9d", "a", "DE", 6.5, 8.1, 18)
    runs("lost-55", "c", "GB", 7.5, 10.5, 25)
    runs("lost-55", "c", "GB", 12.6, 15, 25, number=2)
    runs("bad-3", "c", "GB", 10.7, 11.2, 9)
    runs("raysubmit_Xk2", "a", "DE", 8.5, 9.6, 12, number=0)
    for node, zone, gap in (("a", "DE", (12.5, 17.5)), ("b", "FR", (6, 11)), ("c", "GB", (15, 17.5))):
        meter.run(node, zone, at(gap[0]), at(gap[1]), 0, None, curves[zone], idle_w=11)
    store.put_meta("ray_jobs", {"raysubmit_Xk2": {"state": "SUCCEEDED", "name": "plain-ray-job"}})
    store.put_meta("model", {"name": "mnist", "version": 1, "requests": 200, "correct": 194, "num_cpus": 1.0})
    meter.run("b", "FR", at(17.3), at(17.8), 6, "mnist:1", curves["FR"], number=0, kind="model")
    shares = (
        Share("model", "mnist:1", 0, 900_001, "vision", "r1", 150, 150),
        Share("model", "mnist:1", 0, 400_000, "health", "r1", 40, 80),
        Share("model", "mnist:1", 0, 99_999, "", "r1", 10, 10),
        Share("model", "mnist:1", 0, 700_000, "", "r2", 0, 0),
    )
    meter.charge(
        "b", "FR", at(17.8), at(17.9), 2_100_000, "mnist:1", curves["FR"].mean(at(17.8), at(17.9)), 9, shares=shares
    )
    return store, at(18)


def many_store(count=200):
    """Many jobs with one attempt each."""
    store = world(("DE", "FR"))
    curves = {zone: series(zone, [SHAPES[zone](h) for h in range(72)]) for zone in ("DE", "FR")}
    for curve in curves.values():
        store.add_series(curve)
    meter = Meter(store)
    jobs = []
    for i in range(count):
        submitted_s = T0 + (i % 40) * 0.5 * H
        start_s = submitted_s + (i % 7) * H
        node, zone = (("a", "DE"), ("b", "FR"))[i % 2]
        jobs.append(job(f"job-{i:03d}", submitted_s, [attempt(1, node, zone, start_s, start_s + H)], name=f"sweep {i}"))
        meter.run(node, zone, start_s, start_s + H, 10, f"job-{i:03d}", curves[zone])
    store.save_jobs(jobs)
    return store, T0 + 40 * H
