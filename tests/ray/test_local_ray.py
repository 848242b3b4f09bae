"""The Ray that a job starts on this machine, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = """
import os, sys, threading, time
import ray
from raysem.runs import local_ray

class Hanging:
    def begin(self):
        threading.Thread(target=time.sleep, args=(250,)).start()  # Python waits for it before it ends
        return os.getpid()

local_ray.start(num_cpus=1, object_store_memory=100 * 2**20, _temp_dir=sys.argv[1])
actor = ray.remote(num_cpus=0)(Hanging).remote()
print(ray.get(actor.begin.remote()), flush=True)
del actor
time.sleep(1)
"""


@pytest.mark.fault
def test_a_worker_that_hangs_in_its_own_end_goes_with_the_driver():
    folder = tempfile.mkdtemp(prefix="rl-", dir="/tmp")  # short: a socket's path may have 107 characters
    try:
        command = [sys.executable, "-c", SCRIPT, folder]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=200)
        assert done.returncode == 0, done.stderr
        assert not psutil.pid_exists(int(done.stdout.splitlines()[0]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
