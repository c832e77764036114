"""Promises on time, each as the best of three because the machine may be busy."""

import subprocess
import sys
import time

import numpy as np

from rlbook.worlds import random_mdp


def seconds(job):
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def test_evaluating_2000_states_takes_under_a_second():
    mdp, pi = random_mdp(0, 2000, 2), np.full((2000, 2), 0.5)
    assert min(seconds(lambda: mdp.evaluate(pi)) for _ in range(3)) < 1.0


def test_importing_the_package_takes_under_0_3_seconds_and_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.perf_counter(); import rlbook; print(time.perf_counter() - start);"
        "print(*sorted({'torch', 'transformers', 'gymnasium', 'matplotlib'} & set(sys.modules)))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
    times, heavy = zip(*(run.stdout.split("\n")[:2] for run in runs), strict=True)
    assert min(map(float, times)) < 0.3
    assert set(heavy) == {""}
