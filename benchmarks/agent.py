"""What metering a node costs: our agent beside CodeCarbon's tracker and psutil, with 100 processes on the node.

    python benchmarks/agent.py [--seconds 30] [--processes 100] [--replicas 20] [--tenants 20] [--no-save]

Each way runs in a process of its own that does nothing else, once a second, as long as the others; the processes of
the node are its children, half of them at work in short bursts. Cost is the CPU time of that process, in percent
of one core. The agent's includes all that it does each second but the call to the controller: reading /proc, the meter,
attribution of processes to owners, and writing the sample to disk.

Two more rows have replicas of a model among the processes, which have answered 20 tenants each: in one each of them
answers one tenant a second, in the other all of them (400 pairs of replica and tenant in each sample; no bar).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import describe_run, saved_output, table, verdict

#: cost of the agent, from the issue [% of a core]
BAR_PCT = 0.5
#: rounds, of which the middle one counts
ROUNDS = 3
_CHILD = "import time\nwhile True:\n    time.sleep(0.5)\n    sum(range(20000)) if {busy} else None"


def agent(folder: Path) -> Callable[[], object]:
    """One sample of the node agent, and its delivery to nobody."""
    from eco_ray.core.clock import Clock
    from eco_ray.on_ray.node_agent import AgentConfig, NodeAgent
    from eco_ray.power.modelled import curve_from_cpu

    curve = curve_from_cpu("epyc-gen3", 2)
    config = AgentConfig("node", 2.0, curve, Clock(1.0, time.time(), 0.0), folder / "spool", folder / "run")
    made = NodeAgent(config, lambda _node, _batch: None, root_pid=os.getpid())

    def second() -> None:
        made._keep(made.sample())
        made.ship()

    return second


#: runs beside the agent: each second every replica answers so many of its tenants, and writes its file
_ANSWERS = """
import json, os, sys, time
folder, tenants, answered, *replicas = sys.argv[1:]
counts = {f"tenant-{n}": [0, 0, 0.0] for n in range(int(tenants))}
turn = 0
while True:
    for n in range(turn, turn + int(answered)):
        count = counts[f"tenant-{n % int(tenants)}"]
        count[:] = count[0] + 3, count[1] + 12, count[2] + 0.0123
    turn += int(answered)
    for replica in replicas:
        told = {**json.loads(replica), "counts": counts}
        path = f"{folder}/{told['replica']}.replica.json"
        with open(path + ".part", "w") as file:
            json.dump(told, file)
        os.replace(path + ".part", path)
    time.sleep(1.0)
"""


def answering(folder: Path, pids: Sequence[int], tenants: int, answered: int) -> subprocess.Popen[bytes]:
    """Makes replicas of processes."""
    from eco_ray.on_ray.served import Tally, process_start

    told = []
    for pid in pids:
        tally = Tally("digits", f"replica-{pid}", 0.1, model="digits:1")
        told.append(json.dumps({**tally._told, "pid": pid, "start_ticks": process_start(pid)}))
    command = [sys.executable, "-S", "-c", _ANSWERS, str(folder), str(tenants), str(answered), *told]
    return subprocess.Popen(command)


def codecarbon(folder: Path) -> Callable[[], object]:
    """CodeCarbon measures by itself, once a second."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU", measure_power_secs=1, tracking_mode="machine", save_to_file=False, log_level="error"
    )
    tracker.start()
    return lambda: None


def codecarbon_process(folder: Path) -> Callable[[], object]:
    """The same for the processes below it, which is what tells jobs apart."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU", measure_power_secs=1, tracking_mode="process", save_to_file=False, log_level="error"
    )
    tracker.start()
    return lambda: None


def psutil_all(folder: Path) -> Callable[[], object]:
    """What one writes first: CPU times, parent and name of every child, each second."""
    import psutil

    me = psutil.Process()
    wanted = ["pid", "ppid", "name", "cpu_times", "environ"]
    return lambda: [child.as_dict(wanted) for child in me.children(recursive=True)]


AGENT = "eco_ray agent"
SOME, ALL = f"{AGENT}, replicas answer", f"{AGENT}, each tenant"
WAYS = {
    AGENT: agent,
    SOME: agent,
    ALL: agent,
    "codecarbon, whole machine": codecarbon,
    "codecarbon, its processes": codecarbon_process,
    "psutil, every process": psutil_all,
}


def measured(way: str, seconds: float, processes: int, replicas: int, tenants: int) -> None:
    """In a process of its own: print the CPU time per second and the memory."""
    children = [subprocess.Popen([sys.executable, "-S", "-c", _CHILD.format(busy=i % 2)]) for i in range(processes)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            second = WAYS[way](Path(folder))
            if way in (SOME, ALL):
                pids = [child.pid for child in children[:replicas]]
                answered = 1 if way == SOME else tenants
                children.append(answering(Path(folder) / "spool" / "served", pids, tenants, answered))
            for _ in range(3):  # everything is read for the first time
                second()
                time.sleep(1.0)
            began_s, wall_s = _own_cpu_s(), time.monotonic()
            due = wall_s
            while time.monotonic() - wall_s < seconds:
                second()
                due += 1.0
                time.sleep(max(0.0, due - time.monotonic()))
            cpu_s, passed_s = _own_cpu_s() - began_s, time.monotonic() - wall_s
    finally:
        for child in children:
            child.kill()
    status = Path("/proc/self/status").read_text()
    memory_mb = int(status.partition("VmRSS:")[2].split()[0]) / 1000
    print(json.dumps([100 * cpu_s / passed_s, memory_mb]))
    sys.stdout.flush()
    os._exit(0)


def _own_cpu_s() -> float:
    """CPU time of this process with its threads, and of programs that it ran; not of the node's processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each way is measured, each round")
    parser.add_argument("--processes", type=int, default=100)
    parser.add_argument("--replicas", type=int, default=20, help="of these processes, where there are replicas")
    parser.add_argument("--tenants", type=int, default=20, help="that each replica has answered")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    if args.way:
        measured(args.way, args.seconds, args.processes, args.replicas, args.tenants)
    with saved_output("agent", save=not args.no_save):
        describe_run(
            f"What metering costs, with {args.processes} processes on the node; "
            f"{args.replicas} of them replicas of {args.tenants} tenants each where replicas answer"
        )
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way in WAYS:
                command = [sys.executable, __file__, "--way", way, "--seconds", str(args.seconds)]
                for name in ("processes", "replicas", "tenants"):
                    command += [f"--{name}", str(getattr(args, name))]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{way} failed: {done.stderr.strip().splitlines()[-1:]}")
                    continue
                pct, memory_mb = json.loads(done.stdout.splitlines()[-1])
                found[way].append((pct, memory_mb))
        rows = []
        for way, rounds in found.items():
            costs = sorted(pct for pct, _ in rounds)
            if costs:
                middle = costs[len(costs) // 2]
                rows.append([way, f"{middle:.2f}", f"{costs[0]:.2f} to {costs[-1]:.2f}", f"{rounds[0][1]:.0f}"])
        table(["", "% of a core", "rounds", "MB"], rows)
        print()
        held = [
            verdict(f"{way}, % of a core", sorted(pct for pct, _ in found[way])[ROUNDS // 2], BAR_PCT, " %")
            for way in (AGENT, SOME)
        ]
        return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
