"""The real launcher with a daemon that does what it is told in place of clamscannerd/daemon.py.

A script: its arguments are those of `clamscannerd`. The first line of its output is a JSON object that says what it
became; then each line of its input is a command, answered by a line: ["spawn", name], ["engine", job], ["stop", job]
(an engine), ["end", exit code]. At the end of its input it leaves with 0.
"""

import json
import os
import pwd
import socket
import sys
import types
from pathlib import Path

from clamscannerd.launch import main


def be_daemon(config: object, monitor: socket.socket, *, system: bool, path: Path | None = None) -> int:
    import resource  # after the drop, as the daemon's own

    import trio

    from clamscannerd.config import Config
    from clamscannerd.errors import SpawnRefused
    from clamscannerd.launch_engine import engine_places
    from clamscannerd.model import Account
    from clamscannerd.spawn import explain, open_spawner

    assert isinstance(config, Config)

    def say(answer: object) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    async def live() -> int:
        async with open_spawner(monitor) as spawner:
            await spawner.ping()
            peer = monitor_pid()
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            places = engine_places(config, system=system)
            say({"system": system, "path": path and str(path), "pid": os.getpid(), "monitor": peer, "files": limits}
                | {"base": places.base, "sockets": [places.socket(0)], "cwd": str(Path.cwd())})  # fmt: skip
            # One command at a time, so a chunk is a line. A thread that reads could not be cancelled.
            async for line in trio.lowlevel.FdStream(os.dup(0)):
                verb, *words = json.loads(line)
                try:
                    if verb == "spawn":
                        entry = pwd.getpwnam(words[0])
                        account = Account(uid=entry.pw_uid, gid=0, name=words[0], home=b"/")
                        lock = os.open("/dev/null", os.O_RDONLY)
                        worker = await spawner.spawn(account, lock)
                        hello = await worker.channel.recv(65536)
                        say({"pid": worker.pid, "hello": hello.decode("latin-1")})
                    elif verb == "engine":
                        say({"pid": (await spawner.start_engine(int(words[0]))).pid})
                    elif verb == "stop":
                        engine = spawner.engine(int(words[0]))
                        await spawner.stop_engine(int(words[0]))
                        say({"ended": engine and explain(await engine.wait())})
                    else:
                        return int(words[0])
                except SpawnRefused as error:
                    say({"refused": str(error)})
            return 0

    return trio.run(live, strict_exception_groups=True)


def monitor_pid() -> int:
    (pid,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(pid)


if __name__ == "__main__":
    module = types.ModuleType("clamscannerd.daemon")
    module.main = be_daemon  # type: ignore[attr-defined]
    sys.modules["clamscannerd.daemon"] = module
    sys.exit(main(sys.argv[1:]))
