"""clamscannerctl: what a person or a script types. It runs as whoever typed it, with no rights of its own.

    start.py     where it begins: `status --json` goes a short way, all else to
    main.py      commands and options (click) -> calls.py: one answer, or one line of trouble -> client.py -> socket
                                              -> waiting.py: --wait, until a scan or a task has ended
                                              -> watching.py: status --watch; picture.py: what it shows
                                                    -> progress.py: both on a terminal (rich)
    disinfecting.py  disinfect; mailboxes.py: what it does about mailboxes, and says
    walking.py   the same on a terminal, one key a file; walk.py: what the keys mean
    tasks.py     task, and the end of a disinfection
    vault.py     commands about what was taken away: quarantine, undo
    asking.py    questions, where somebody can answer; advice.py: what to do about a refusal
    health.py    how all is; doctor.py: the same and what only trying tells, with absent.py and machine.py: what can be
                 seen of a daemon that does not answer, and of the machine
    metrics.py   the daemon's numbers, also as a file that is replaced whole
    uapi.py      cPanel's command of that name, for scripts that call it
    commands.py  what every command shares: options, one line of trouble
    text.py      answers as plain lines; nothing a file name holds reaches the terminal raw

Starting fast matters more here than anywhere else: a panel runs this per page. So start.py, and so neither trio nor
rich is imported unless someone watches on a terminal, and `--help` and `--version` do not even import the client.

Rejected: argparse (no completion, and its help has to be written twice), typer (imports rich at once), a library
of our own over the six calls (scripts have the JSON of `--json` and `call`, which is the contract itself).
"""
