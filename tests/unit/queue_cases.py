"""Replicas that answer one request after the other, in virtual time; whoever has the fewest gets the next."""

from __future__ import annotations

import heapq
import random
from collections import deque

START_S = 3.0


def played(arrivals_s, decide, service_s, seed=0):
    """`decide(now_s, ongoing, requests, replicas, running, p95_s) -> replicas`, once a second.

    Each request takes `service_s` on average, exponentially. Returns latencies [s], replica-seconds, and the numbers of
    replicas that were decided.
    """
    rng, queues, starting, waiting = random.Random(seed), [deque()], [], deque()
    latencies, lately, decided, replica_s, came = [], deque(), [1], 0.0, 0
    events = [(at, 0, "request", None) for at in arrivals_s]
    events += [(float(at), 1, "look", None) for at in range(1, int(arrivals_s[-1]) + 60)]
    heapq.heapify(events)

    def work(queue, now_s):
        heapq.heappush(events, (now_s + rng.expovariate(1 / service_s), id(queue), "done", queue))

    def give(at, now_s):
        able = [queue for queue in queues if queue is not None][: max(0, decided[-1])]
        if not able:
            waiting.append(at)
            return
        queue = min(able, key=len)
        queue.append(at)
        if len(queue) == 1:
            work(queue, now_s)

    while events:
        now_s, _, what, queue = heapq.heappop(events)
        if what == "request":
            came += 1
            give(now_s, now_s)
        elif what == "done":
            at = queue.popleft()
            latencies.append(now_s - at)
            lately.append((now_s, now_s - at))
            if queue:
                work(queue, now_s)
        else:
            while starting and starting[0] <= now_s:
                starting.pop(0)
                queues.append(deque())
            while waiting and queues:
                give(waiting.popleft(), now_s)
            while lately and lately[0][0] < now_s - 30:
                lately.popleft()
            slow = sorted(latency for _, latency in lately)
            ongoing = len(waiting) + sum(map(len, queues))
            p95_s = slow[int(0.95 * len(slow))] if len(slow) >= 20 else None
            wanted = decide(now_s, float(ongoing), came, decided[-1], len(queues), p95_s)
            decided.append(wanted)
            while len(queues) + len(starting) > wanted:  # the last are told to go, and answer what they have
                if starting:
                    starting.pop()
                else:
                    queues.pop()
            starting += [now_s + START_S] * (wanted - len(queues) - len(starting))
            replica_s += wanted
    return latencies, replica_s, decided
