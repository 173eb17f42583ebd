"""The ranks of several machines meet before OneFlow starts, which would wait for ever in silence.

It uses the port that OneFlow listens on afterwards, so no further one has to be open. OneFlow is
not imported here.
"""
import os
import socket
import time

from projects.MAE.errors import UserError

TIMEOUT = 300  # seconds


def timeout_seconds():
    """NODE_TIMEOUT of the environment, in seconds.

    Raises:
        UserError: it is no positive number.
    """
    text = os.environ.get("NODE_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(
            f"NODE_TIMEOUT={text} must be a positive number of seconds",
            local=os.environ["LOCAL_RANK"] == "0",
        )
    return seconds


def meet():
    """Return once every rank has reached rank 0; does nothing on a single machine.

    Reads NODE of the user's environment and RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
    MASTER_PORT of the launcher.

    Raises:
        UserError: a machine does not come within NODE_TIMEOUT seconds, two of them have one
            address or one number, or they were started for different numbers of ranks. One rank
            of each machine is asked to say so.
    """
    if int(os.environ.get("NODE", 1)) == 1:
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    hello = f"{rank} {rank - local_rank} {os.environ['WORLD_SIZE']}"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + timeout_seconds()
    problem = _host(hello, address, deadline) if rank == 0 else _visit(hello, address, deadline)
    if problem:
        raise UserError(problem, local=local_rank == 0)


def _host(hello, address, deadline):
    """Collect the other ranks and tell each the outcome: "" or what is wrong."""
    listener = socket.socket()
    # OneFlow listens on the same port a moment later.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", address[1]))
    except OSError as error:
        return f"PORT={address[1]}: {error.strerror}; choose another on every machine"
    listener.listen(1024)
    _, _, world_size = map(int, hello.split())
    machines, visitors, problem = {0: address[0]}, {}, ""
    while len(visitors) < world_size - 1 and not problem:
        listener.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            visitor, (peer, _) = listener.accept()
        except socket.timeout:
            problem = (
                f"NODE={os.environ['NODE']}, but only {len(visitors) + 1} of {world_size} ranks "
                f"came to {address[0]}:{address[1]} within {timeout_seconds():g} s: start the same "
                "command on every machine with its NODE_RANK, or set NODE_TIMEOUT to wait longer"
            )
            continue
        visitor.settimeout(10)
        words = visitor.recv(64).split()
        if len(words) != 3 or not all(word.isdigit() for word in words):
            visitor.close()  # a stranger: something that probes open ports
            continue
        rank, first, ranks = map(int, words)
        own = visitor.getsockname()[0]  # the address under which this machine is reached
        known = own if first == 0 else machines.setdefault(first, peer)
        if ranks != world_size:
            problem = (
                f"one machine was started for {world_size} ranks in all and one for {ranks}: give "
                "the same N and NODE on every machine"
            )
        elif rank == 0 or (rank in visitors and not _left(visitors[rank])):
            problem = "two machines have the same NODE_RANK: number them from 0 to NODE - 1"
        elif first and (peer == own or list(machines.values()).count(known) > 1):
            problem = (
                f"two machines have the same address, {peer}, by which OneFlow tells them apart: "
                "use ADDR=(the address of machine 0 on the network), or more ranks and NODE=1 on "
                "one machine"
            )
        visitors["turned away" if problem else rank] = visitor
    if not problem and any(map(_left, visitors.values())):
        problem = "a machine left while the others were still coming: start again on every machine"
    # Closed first: a rank that hears the outcome must find OneFlow here, not this listener.
    listener.close()
    for visitor in visitors.values():
        if _left(visitor):
            continue
        visitor.sendall(f"{problem}\n".encode())
        visitor.recv(1)  # it closes first, so that the port is free at once
        visitor.close()
    return problem


def _left(visitor):
    """Whether a rank that came has ended since: stopped, or stopped and started again."""
    visitor.setblocking(False)
    try:
        return visitor.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        visitor.settimeout(10)


def _visit(hello, address, deadline):
    """Reach rank 0, and return what it says."""
    while True:
        try:
            host = socket.create_connection(address, timeout=1)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                return (
                    f"ADDR={address[0]}: no machine 0 at port {address[1]} within "
                    f"{timeout_seconds():g} s ({error}): start NODE_RANK=0 there with the same "
                    "PORT, or set NODE_TIMEOUT to wait longer"
                )
            time.sleep(0.2)
    with host:
        host.sendall(hello.encode())
        # Rank 0 keeps the deadline from here on; without a word from it, it is gone.
        host.settimeout(max(deadline - time.monotonic(), 0) + timeout_seconds())
        try:
            outcome = host.recv(4096).decode()
        except OSError:
            outcome = ""
    if not outcome:
        return f"ADDR={address[0]}: machine 0 went away before every machine had come"
    return outcome.strip()
