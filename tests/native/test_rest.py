"""csrc/oneflow/rest.c: OneFlow naps where it polls in vain; all others are left alone."""
import os
import subprocess
import sys

import pytest

from tests.support.needs import CXX, needs_cxx

LIBRARY = os.path.join(sys.prefix, "lib", "libmae_rest.so")
POLL = """
#include <sched.h>
#include <sys/resource.h>
#include <time.h>

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Polls for a tenth of a second with so many seconds of work between polls; returns how often this
// thread went to sleep.
int poll(double work) {
  struct rusage before, after;
  const double start = seconds();
  getrusage(RUSAGE_THREAD, &before);
  while (seconds() < start + 0.1) {
    const double from = seconds();
    while (seconds() < from + work) {}
    sched_yield();
  }
  getrusage(RUSAGE_THREAD, &after);
  return after.ru_nvcsw - before.ru_nvcsw;
}
"""

pytestmark = needs_cxx


def sleeps(folder, library, work):
    """How often a poller in a library of that name sleeps, with csrc/oneflow/rest.c preloaded."""
    (folder / "poll.c").write_text(POLL)
    path = folder / library
    flags = ["-x", "c", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-fno-optimize-sibling-calls"]
    subprocess.run([CXX, *flags, folder / "poll.c", "-o", path], check=True)
    code = f"import ctypes; print(ctypes.CDLL({str(path)!r}).poll(ctypes.c_double({work})))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_PRELOAD": LIBRARY},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return int(result.stdout)


@pytest.mark.usefixtures("native_kernels")
def test_who_sleeps(tmp_path):
    assert sleeps(tmp_path, "liboneflow-poll.so", work=0) > 3
    assert sleeps(tmp_path, "liboneflow-poll.so", work=5e-5) == 0
    assert sleeps(tmp_path, "libother.so", work=0) == 0
