"""What the controller imports before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLANS_TOGETHER = """
import sys
from eco_ray.on_ray.preload import preload
preload()
known = set(sys.modules)
from orchestrator_world import DE, FR, World
from eco_ray.core import market
solved, solve = [], market._solve
market._solve = lambda *args: solved.append(args) or solve(*args)
world = World(DE, FR)
for number in range(6):
    world.submit(f"j{number}", hours=2, deadline_h=20)
for _ in range(8):
    world.tick(hours=0.25)
from ray.job_submission import JobSubmissionClient
assert solved, "no joint plan was made"
print([name for name in sys.modules if name not in known and name.split(".")[0] in ("scipy", "ray")])
"""


def test_the_first_joint_plan_imports_nothing_any_more() -> None:
    """On a slow machine SciPy's import held up every decision for ten seconds."""
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PLANS_TOGETHER], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_who_only_names_models_imports_no_torch() -> None:
    """It takes seconds, of which each deployment had three, and memory in the deployer and the router."""
    imports = "import sys, eco_ray.on_ray.hosting, eco_ray.on_ray.ray_serve, eco_ray.on_ray.router_host"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; print('torch' in sys.modules)"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
