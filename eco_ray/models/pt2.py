"""Files of torch.export (.pt2): the graph as JSON, weights as plain bytes, in a zip.

`torch.export.load` trusts its file ("never load data from an untrusted source"): it unpickles sample inputs and some
weights, evaluates shape expressions as Python, calls whatever a node names below `torch`, and loads compiled code.
Here the JSON is read without torch.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from eco_ray.errors import DamagedError

#: of the graph's JSON; one of 10,000 nodes takes less
MAX_GRAPH_BYTES = 32 << 20
_BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


def read_graph(path: Path) -> dict[str, Any]:
    """The only program of a .pt2 file, as JSON. Raises DamagedError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return graph_of(archive, path)
    except (*_BROKEN, RecursionError) as error:
        raise DamagedError(f"{path.name} is no .pt2 file: {' '.join(str(error).split())[:100]}") from None


def graph_of(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    """The only program of an open archive, as JSON."""
    found = [one for one in archive.infolist() if one.filename.partition("/")[2].startswith("models/")]
    if len(found) != 1:
        raise DamagedError(f"{path.name} holds {len(found)} programs; give a .pt2 file of one")
    if found[0].file_size > MAX_GRAPH_BYTES:
        raise DamagedError(f"the graph in {path.name} has {found[0].file_size} bytes, limit {MAX_GRAPH_BYTES}")
    graph = json.loads(archive.read(found[0]))
    if not isinstance(graph, dict):
        raise DamagedError(f"the graph in {path.name} is no JSON object")
    return graph
