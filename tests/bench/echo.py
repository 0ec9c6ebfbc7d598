"""A bare trio server: one line in, the same line out. What a poll would cost if it had nothing to say.

Run as a program of its own by status_latency: `python -m tests.bench.echo SOCKET`.
"""

import sys

import trio


async def _serve(stream: trio.SocketStream) -> None:
    line = b""
    async for data in stream:
        line += data
        while b"\n" in line:
            whole, _, line = line.partition(b"\n")
            await stream.send_all(whole + b"\n")


async def _main(path: str) -> None:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(path)
    sock.listen(1000)
    await trio.serve_listeners(_serve, [trio.SocketListener(sock)])


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
