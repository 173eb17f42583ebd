"""How ranks meet: those of several machines before OneFlow starts, and all at the port it opens.

OneFlow itself would wait for a missing machine for ever, in silence. The machines meet at the port
that OneFlow listens on afterwards, so no further one has to be open; ranks of a single machine
need no meeting, and open no port. OneFlow is not imported here: importing it is what starts it.
"""
import os
import selectors
import socket
import time

from projects.MAE.errors import UserError

TIMEOUT = 300  # seconds for the machines to come
PATIENCE = 10  # seconds for whoever has connected to speak


def meet():
    """Return once it is time to import OneFlow.

    On several machines every rank reaches rank 0 first, which tells each whether all have come.
    Then every rank but that one waits until OneFlow listens there. Reads NODE of the user's
    environment and RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the launcher.
    One rank of each machine says what is wrong.
    """
    rank, world_size = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE"))
    if world_size < 2:
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if int(os.environ.get("NODE", 1)) > 1:
        local_rank = int(os.environ["LOCAL_RANK"])
        deadline = time.monotonic() + timeout_seconds()
        if rank == 0:
            problem = _host(world_size, address, deadline)
        else:
            problem = _visit(f"{rank} {rank - local_rank} {world_size}", address, deadline)
        if problem:
            raise UserError(problem, local=local_rank == 0)
    if rank:
        _wait_for_oneflow(address)


def timeout_seconds():
    """NODE_TIMEOUT of the environment, in seconds; a UserError if it is no positive number."""
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


def _host(world_size, address, deadline):
    """Collect the other ranks and tell each the outcome: "" or what is wrong."""
    try:
        listener = socket.create_server(("", address[1]), backlog=1024)
    except OSError as error:
        return f"PORT={address[1]}: {error.strerror}; choose another on every machine"
    visitors = {}
    # Closed first: a rank that hears the outcome must find OneFlow here, not this listener.
    with listener:
        problem = _collect(listener, visitors, world_size, address, deadline)
    if not problem and any(map(_left, visitors.values())):
        problem = "a machine left while the others were still coming: start again on every machine"
    for visitor in visitors.values():
        _tell(visitor, problem)
    return problem


def _collect(listener, visitors, world_size, address, deadline):
    """Fill `visitors`, {rank: its socket}, until all have come; returns "" or what is wrong."""
    machines = {0: address[0]}  # by first rank
    for words, visitor, peer in _arrivals(listener, deadline):
        if len(words) != 3 or not all(word.isdigit() for word in words):
            visitor.close()  # a stranger: something that probes open ports
            continue
        rank, first, ranks = map(int, words)
        own = visitor.getsockname()[0]  # the address under which this machine is reached
        problem = ""
        if ranks != world_size:
            problem = (
                f"one machine was started for {world_size} ranks in all and one for {ranks}: give "
                "the same N and NODE on every machine"
            )
        elif rank == 0 or (rank in visitors and not _left(visitors[rank])):
            problem = "two machines have the same NODE_RANK: number them from 0 to NODE - 1"
        elif first:
            known = machines.setdefault(first, peer)
            if peer == own or list(machines.values()).count(known) > 1:
                problem = (
                    f"two machines have the same address, {peer}, by which OneFlow tells them "
                    "apart: use ADDR=(the address of machine 0 on the network), or more ranks and "
                    "NODE=1 on one machine"
                )
        visitors["turned away" if problem else rank] = visitor
        if problem or len(visitors) == world_size - 1:
            return problem
    return (
        f"NODE={os.environ['NODE']}, but only {len(visitors) + 1} of {world_size} ranks came to "
        f"{address[0]}:{address[1]} within {timeout_seconds():g} s: start the same command on "
        "every machine with its NODE_RANK, or set NODE_TIMEOUT to wait longer"
    )


def _arrivals(listener, deadline):
    """Yield (its words, socket, address) of each that connects and speaks, until the deadline.

    One that says nothing holds up no other, and is turned away after `PATIENCE` seconds.
    """
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ)
        try:
            while time.monotonic() < deadline:
                for key, _ in waiting.select(timeout=0.1):
                    visitor = key.fileobj
                    if visitor is listener:
                        visitor, (peer, _) = listener.accept()
                        arrival = peer, time.monotonic()
                        waiting.register(visitor, selectors.EVENT_READ, arrival)
                    else:
                        waiting.unregister(visitor)
                        yield _words(visitor), visitor, key.data[0]
                _turn_away(waiting, time.monotonic() - PATIENCE)
        finally:
            _turn_away(waiting)


def _words(visitor):
    """What one that came has to say; nothing if it has left again."""
    try:
        return visitor.recv(64).split()
    except OSError:
        return []


def _turn_away(waiting, latest=float("inf")):
    """Close the connections of a selector that came before `latest` and have not spoken."""
    for key in list(waiting.get_map().values()):
        if key.data and key.data[1] < latest:
            waiting.unregister(key.fileobj).fileobj.close()


def _left(visitor):
    """Whether a rank that came has ended since: stopped, or stopped and started again."""
    visitor.setblocking(False)
    try:
        return visitor.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def _tell(visitor, problem):
    """Tell a rank the outcome, if it is still there, and close its connection."""
    visitor.settimeout(PATIENCE)
    try:
        visitor.sendall(f"{problem}\n".encode())
        visitor.recv(1)  # it closes first, so that the port is free at once
    except OSError:
        pass  # it has ended
    visitor.close()


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
        # Rank 0 keeps the deadline from here on; without a word from it, it is gone.
        host.settimeout(max(deadline - time.monotonic(), 0) + timeout_seconds())
        try:
            host.sendall(hello.encode())
            outcome = host.recv(4096).decode()
        except (OSError, UnicodeDecodeError):
            outcome = ""
    if not outcome:
        return f"ADDR={address[0]}: machine 0 went away before every machine had come"
    return outcome.strip()


def _wait_for_oneflow(address):
    """Return once OneFlow's rank 0 listens, or after a minute: ranks too early wait 10 seconds."""
    for _ in range(600):
        try:
            socket.create_connection(address, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
