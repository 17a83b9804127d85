"""What tests of requests to grid sources share: a key that must be escaped, a client of a local server, its error."""

from __future__ import annotations

import pytest
from grid_server import GridServer

from eco_ray.grid.http import Http, SourceError

KEY = "k3y/with+signs&<more>=="


def an_http(server: GridServer, **options) -> Http:
    return Http("test-source", f"{server.url}/v4", **{"timeout_s": 5.0, **options})


def refused(http: Http, *args, **kwargs) -> SourceError:
    with pytest.raises(SourceError) as caught:
        http.get_json(*args, **kwargs)
    return caught.value
