"""What the jobs of a book are to the market."""

from __future__ import annotations

import pytest
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_spec, hourly

from eco_ray.core.book import Book
from eco_ray.core.clearing import Clearing
from eco_ray.core.jobs import Workers


def shared_h(*jobs):
    """Hours of work that each gets, by name, in an hour as clean as no other (the second), and its price per CPU."""
    book = Book("DE", T0, CONFIG)
    book.set_node(a_node(cpus=2.0, watts=200.0))
    book.forecast_arrived({"DE": hourly("DE", 300, 100, *[300] * 22)}, {})
    Clearing(book, T0).clear(jobs, T0)
    assert book.market is not None
    return {name: share_s[0, 1] / HOUR_S for name, share_s in book.market.shares_s.items()}


def elastic(name, hours, deadline_h):
    return a_job(a_spec(hours, deadline_h, workers=Workers(1, 4)), name)


def test_an_elastic_job_gets_no_more_of_an_hour_than_its_least_workers_can_do():
    """A share is placed with the least workers: what is meant for more of them would be lost for all."""
    found = shared_h(elastic("a", 3, 8), elastic("b", 3, 8), elastic("c", 3, 8))
    assert sum(found.values()) == pytest.approx(2)
    assert max(found.values()) <= 1 + 1e-9


def test_one_that_would_be_late_with_them_may_have_more():
    """Six hours of work in three hours: two workers all the time."""
    found = shared_h(elastic("a", 6, 3), elastic("b", 3, 8))
    assert found["a"] == pytest.approx(2)
    assert found["b"] == pytest.approx(0)
