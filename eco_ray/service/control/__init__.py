"""The control API: jobs, events, nodes, the grid and the ledger behind HTTP, below `/api/v1`.

`ControlApp` (app.py) speaks to a `Control` (port.py). It runs under any ASGI server. Nothing mounts it on Ray
Serve yet; models, deployments, reports and snapshots of work directories are not asked by it yet.
"""
