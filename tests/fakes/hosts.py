"""Machines of their own for engines: network namespaces, each joined to the daemon's by a pair of interfaces.

Nothing of it is in the namespace of the test, and all of it goes with the processes that hold it. Root needed.

    with Network() as network:
        address = network.host()                    # the namespace of one more machine
        RealClamd(prefix=address.prefix, options=address.listening())
        daemon.program = [*network.prefix, *daemon.program]
"""

import subprocess
from types import TracebackType
from typing import Self

PORT = 3310


class _Namespace:
    """Held by a process that ends when its standard input does."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        self.pid = self._holder.pid
        self.prefix = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def run(self, *words: str) -> None:
        subprocess.run([*self.prefix, *words], check=True)

    def close(self) -> None:
        self._holder.communicate()


class Host:
    """One machine. `prefix` goes before a program that is to run there."""

    def __init__(self, namespace: _Namespace, ip: str) -> None:
        self.prefix = namespace.prefix
        self.ip = ip
        self.address = f"tcp://{ip}:{PORT}"

    def listening(self) -> dict[str, str]:
        """Options of its clamd."""
        return {"TCPSocket": str(PORT), "TCPAddr": self.ip}


class Network:
    def __init__(self) -> None:
        self._ours = _Namespace()
        self._others: list[_Namespace] = []
        self.prefix = self._ours.prefix

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for namespace in (*self._others, self._ours):
            namespace.close()

    def host(self) -> Host:
        number, there = len(self._others) + 1, _Namespace()
        self._others.append(there)
        pair = ("link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", str(there.pid))
        self._ours.run("ip", *pair)
        self._ours.run("ip", "address", "add", f"10.9.{number}.1/24", "dev", f"to{number}")
        self._ours.run("ip", "link", "set", f"to{number}", "up")
        there.run("ip", "address", "add", f"10.9.{number}.2/24", "dev", "eth0")
        there.run("ip", "link", "set", "eth0", "up")
        return Host(there, f"10.9.{number}.2")
