"""clamscannerd: every user's own files, scanned by ClamAV and disinfected, without root and without trust.

     client (any user)                                   systemd
        | one JSON object a line                            ^ READY, STATUS, WATCHDOG, journal
        v                                                   |
     rpc/ ---------> service/ ---------> state/ ------------+     [daemon: user clamscannerd, no capability]
     bytes to one    the six calls       what survives a crash
     authorised call                        |  one job for one account (pipeline/)
                                            v
     [monitor: starts, kills] -- SPAWN(uid) --> worker/           [the account's uid, sealed]
                                            walk -> open beneath -> clamd session -> verdicts
                                            capture -> contents up -> verify -> unlink -> log line
     fds go DOWN: clamd sessions, the account's lock. Bytes go UP: progress, findings, contents for the vault.

| process        | runs as                           | may                             | never                     |
|----------------|-----------------------------------|---------------------------------|---------------------------|
| daemon         | clamscannerd, no capability       | serve clients, own state, vault | open a path in a home     |
| monitor        | clamscannerd, SETUID SETGID KILL  | start, kill workers and engine  | parse JSON, import trio   |
| worker         | the account's ids, sealed         | touch that account's files      | exec, connect, stay       |
| private engine | clamscannerd-engine               | be clamd                        | read state, vault, homes  |

Reading order: launch, monitor, daemon; rpc, service, state, pipeline, engine, worker; client, ctl.
"""

__version__ = "0.1.0"
