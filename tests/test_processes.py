"""A run that is stopped or breaks leaves nothing behind: no process, shared memory or port."""
import os
import re
import signal
import socket

import pytest

from tests.started_run import StartedRun, shared_memory_of, wait_until


@pytest.mark.parametrize("kill", ["interrupt", "launcher", "rank"])
def test_nothing_is_left(image_folder, tmp_path, kill):
    with StartedRun(image_folder, tmp_path, ranks=4 if kill == "rank" else 2) as run:
        run.wait_for_iterations()
        shared = shared_memory_of(run.processes())
        ranks = run.rank_processes()
        with open(f"/proc/{ranks[0]}/environ") as file:
            port = int(re.search(r"\0MASTER_PORT=(\d+)", file.read()).group(1))
        if kill == "interrupt":
            os.killpg(run.launcher.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
        elif kill == "launcher":
            run.launcher.kill()
        else:
            os.kill(ranks[2], signal.SIGKILL)
        status, output = run.end(60)
        assert (status == 0) == (kill == "interrupt"), output
        assert wait_until(lambda: not run.processes(), 30), run.processes()
    if kill == "rank":
        said = [line for line in output.splitlines() if line.startswith("rank ")]
        assert len(said) == 1 and "died of signal 9 (KILL)" in said[0], output
        assert "train.sh: line" not in output
        assert shared and not [name for name in shared if os.path.exists(name)]
    with socket.create_server(("127.0.0.1", port)):
        pass  # OneFlow's port is free
