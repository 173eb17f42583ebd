"""Machine 0 while it waits for the others, which are sockets on loopback addresses here."""
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from projects.MAE.errors import UserError
from projects.MAE.runtime import rendezvous
from projects.MAE.runtime.rendezvous import meet


@pytest.fixture
def launched(monkeypatch):
    """Sets the launcher's variables for the rank that the test is: launched(RANK=1, ...) -> port."""

    def launched(**variables):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        variables.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_TIMEOUT=20)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return port

    return launched


@pytest.fixture
def machine_0(launched):
    """Rank 0 of three machines of one rank each, waiting in a thread: (future, come)."""
    port = launched(NODE=3, WORLD_SIZE=3, RANK=0, LOCAL_RANK=0)

    def come(hello, address):
        deadline = time.monotonic() + 10
        while True:
            try:
                visitor = socket.create_connection(("127.0.0.1", port), 10, (address, 0))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        visitor.sendall(hello)
        return visitor

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(meet), come


def hear(visitor):
    with visitor:
        return visitor.recv(4096).decode().strip()


@pytest.mark.parametrize("ranks", [1, 2])
def test_rank_0_of_one_machine_opens_no_port(launched, monkeypatch, ranks):
    launched(NODE=1, WORLD_SIZE=ranks, RANK=0, LOCAL_RANK=0)
    monkeypatch.setattr(socket.socket, "bind", lambda *unused: pytest.fail("it opens a port"))
    meet()


def test_ranks_of_one_machine_wait_for_rank_0(launched):
    port = launched(NODE=1, WORLD_SIZE=2, RANK=1, LOCAL_RANK=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(meet)
        time.sleep(0.3)
        assert not waiting.done()
        with socket.create_server(("127.0.0.1", port)):
            assert waiting.result(10) is None


def test_all_come_one_of_them_twice(machine_0):
    waiting, come = machine_0
    come(b"1 1 3", "127.0.0.2").close()  # stopped, and started again
    come(b"GET / HTTP/1.1", "127.0.0.9").close()  # a stranger
    first, second = come(b"1 1 3", "127.0.0.2"), come(b"2 2 3", "127.0.0.3")
    assert hear(first) == hear(second) == ""
    assert waiting.result(10) is None


@pytest.mark.parametrize(
    "hello, address, message",
    [
        (b"2 2 3", "127.0.0.2", "same address, 127.0.0.2"),
        (b"2 2 3", "127.0.0.1", "same address, 127.0.0.1"),
        (b"1 1 3", "127.0.0.3", "same NODE_RANK"),
        (b"2 2 4", "127.0.0.3", "3 ranks in all and one for 4"),
    ],
)
def test_what_is_wrong_is_told_to_everyone(machine_0, hello, address, message):
    waiting, come = machine_0
    visitor = come(b"1 1 3", "127.0.0.2")
    come(hello, address)
    assert message in hear(visitor)
    with pytest.raises(UserError, match=message):
        waiting.result(10)


def test_machine_that_leaves(machine_0):
    waiting, come = machine_0
    come(b"1 1 3", "127.0.0.2").close()
    come(b"2 2 3", "127.0.0.3")
    with pytest.raises(UserError, match="a machine left"):
        waiting.result(10)


def test_silent_stranger_holds_up_nobody(machine_0):
    waiting, come = machine_0
    with come(b"", "127.0.0.9") as stranger:
        first, second = come(b"1 1 3", "127.0.0.2"), come(b"2 2 3", "127.0.0.3")
        assert hear(first) == hear(second) == ""
        assert waiting.result(10) is None
        assert hear(stranger) == ""


def test_silent_stranger_is_turned_away(machine_0, monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.3)
    waiting, come = machine_0
    assert hear(come(b"", "127.0.0.9")) == ""
    assert not waiting.done()
    first, second = come(b"1 1 3", "127.0.0.2"), come(b"2 2 3", "127.0.0.3")
    assert hear(first) == hear(second) == ""
    assert waiting.result(10) is None


def test_stranger_that_breaks_its_connection(machine_0):
    waiting, come = machine_0
    stranger = come(b"", "127.0.0.9")
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stranger.close()  # a reset, not an end
    first, second = come(b"1 1 3", "127.0.0.2"), come(b"2 2 3", "127.0.0.3")
    assert hear(first) == hear(second) == ""
    assert waiting.result(10) is None
