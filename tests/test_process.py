"""How many cores and threads are used: those that a scheduler, a container or OMP_NUM_THREADS allows."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys
os.sched_setaffinity(0, json.loads(sys.argv[1]))
from emphasis.process import idle_cores, threads_of_each, usable_cores
os.cpu_count = lambda: 8
print(json.dumps([usable_cores(), threads_of_each(), threads_of_each(2), threads_of_each(100), idle_cores()]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that binds processes to cores")
@pytest.mark.parametrize("threads", ["", "1", "3", "many"])
@pytest.mark.parametrize("bound", [False, True])
def test_no_more_cores_are_used_than_allowed(bound, threads):
    allowed = sorted(os.sched_getaffinity(0))[: 1 if bound else None]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(allowed)],
        env={**os.environ, "OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=True,
    )
    usable, alone, of_two, of_many, idle = json.loads(done.stdout)
    most = int(threads) if threads.isdecimal() else 8
    assert usable == min(8, len(allowed))
    assert alone == min(usable, most)
    assert of_two == max(1, min(usable // 2, most))
    assert of_many == 1
    assert 1 <= idle <= alone
