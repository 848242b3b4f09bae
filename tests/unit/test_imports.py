"""What an import does besides defining names: nothing. Checked in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import raysem

ROOT = Path(raysem.__file__).parent
MODULES = sorted(
    ".".join(("raysem", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)

# Imports the modules given, in a process that may neither open a connection nor look up a name.
WATCHED = """
import importlib, json, logging, os, socket, sys
def refuse(*arguments, **keywords):
    raise AssertionError(f"network used at import: {arguments}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import tempfile
before = sorted(os.listdir(os.getcwd()))
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
loggers = {"": logging.getLogger(), **logging.Logger.manager.loggerDict}
handlers = sorted(
    name for name, logger in loggers.items()
    if (not name or name.split(".")[0] == "raysem")
    and any(not isinstance(handler, logging.NullHandler) for handler in getattr(logger, "handlers", ()))
)
levels = [name for name, logger in loggers.items() if name.split(".")[0] == "raysem" and getattr(logger, "level", 0)]
ray = sys.modules.get("ray")
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "handlers": handlers,
    "levels": levels,
    "written": sorted(set(os.listdir(os.getcwd())) - set(before)),
    "ray_started": bool(ray and ray.is_initialized()),
}))
"""


def import_fresh(modules: list[str], folder: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(modules)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_recipes_load_without_torch_ray_and_transformers(tmp_path: Path):
    found = import_fresh(["raysem", "raysem.config", "raysem.errors"], tmp_path)
    assert not {"torch", "ray", "transformers", "pyarrow", "numpy"} & set(found["modules"])


def test_the_command_line_and_the_state_of_a_run_load_without_torch_and_ray(tmp_path: Path):
    found = import_fresh(["raysem.cli", "raysem.run_status", "raysem.stages", "raysem.ledger"], tmp_path)
    assert not {"torch", "ray", "transformers"} & set(found["modules"])


def test_importing_every_module_uses_no_network_writes_nothing_and_leaves_logging_alone(tmp_path: Path):
    found = import_fresh(MODULES, tmp_path)
    assert "ray" in found["modules"]
    assert found["handlers"] == []
    assert found["levels"] == []
    assert found["written"] == []
    assert not found["ray_started"]
