"""The job in pfl: two processes of `pfl_process`, joined as pfl's guide does it in a shell."""

import os
import socket
import subprocess
import sys

PROCESSES = 2


def main() -> None:
    addresses = ",".join(f"localhost:{port}" for port in free_ports(PROCESSES))
    command = [sys.executable, "-m", "experiments.benchmarks.peers.pfl_process", sys.argv[1]]
    ranks = [{"PFL_WORKER_ADDRESSES": addresses, "PFL_WORKER_RANK": str(rank)} for rank in range(PROCESSES)]
    running = [subprocess.Popen(command, env={**os.environ, **rank}) for rank in ranks]
    sys.exit(max(process.wait() for process in running))


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    main()
