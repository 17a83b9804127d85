"""Where a connected cluster has its job API."""

from __future__ import annotations

import pytest

from eco_ray.on_ray.connection import dashboard_url


@pytest.mark.parametrize(
    ("told", "url"),
    [("10.0.0.2:8265", "http://10.0.0.2:8265"), ("https://ray.example", "https://ray.example"), (None, ""), ("", "")],
)
def test_the_dashboard_is_where_ray_says_now(monkeypatch: pytest.MonkeyPatch, told: str | None, url: str) -> None:
    import ray._private.services

    monkeypatch.setattr(ray._private.services, "get_webui_url_from_internal_kv", lambda: told)
    assert dashboard_url() == url
