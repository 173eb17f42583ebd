"""A run on one machine listens for no other machine."""
import contextlib
import os
from pathlib import Path

from tests.support.needs import needs_cc
from tests.support.started_run import StartedRun

LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def sockets_of(process):
    """Inodes of a process's sockets."""
    found = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a file that was closed just now
            link = os.readlink(path)
            if link.startswith("socket:["):
                found.add(link[len("socket:[") : -1])
    return found


def listening_addresses(inodes):
    """Hexadecimal addresses, as /proc has them, on which sockets with these inodes listen."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                found.append(fields[1].split(":")[0])
    return found


@needs_cc  # to build tools/loopback.c
def test_every_listening_port_is_on_the_loopback_address(image_folder, tmp_path):
    with StartedRun(image_folder, tmp_path, ranks=2) as run:
        run.wait_for_iterations()
        # The ranks run on until they are ended, so that none of them goes while it is looked at.
        by_rank = [listening_addresses(sockets_of(rank)) for rank in run.rank_processes()]
    assert len(by_rank) == 2 and all(by_rank), "OneFlow listens nowhere: has the test gone blind?"
    assert set().union(*by_rank) <= LOOPBACK, by_rank
