"""A bare trio server: one line in, the same line out. What a poll would cost if it had nothing to say.

Run as a program of its own: `python -m tests.bench.echo SOCKET`. With `--json` the line is read and written as JSON on
its way: what any server of calls has to do.
"""

import json
import sys

import trio

_JSON = "--json" in sys.argv


async def _serve(stream: trio.SocketStream) -> None:
    line = b""
    async for data in stream:
        line += data
        while b"\n" in line:
            whole, _, line = line.partition(b"\n")
            if _JSON:
                whole = json.dumps(json.loads(whole)).encode()
            await stream.send_all(whole + b"\n")


async def _main(path: str) -> None:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(path)
    sock.listen(1000)
    await trio.serve_listeners(_serve, [trio.SocketListener(sock)])


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
