"""[worker] The only code that touches a user's files, in a process that is that user: one job, then it leaves.

What it believes:
    monitor.py   that its argv is right: uid, name, mode. It proves the rest itself, to the kernel's own word
    the daemon   the job: paths, actions, sessions. Nothing of it can lead outside of the home, or be executed
    clamd        nothing but a parsed answer to an id that is outstanding, on the very fd, or content, that was sent
    the user     nothing. Names, contents, links and the moment of every change are the user's choice, who may also
                 SIGSTOP and SIGKILL this process, but not read it, trace it or take its fds
What is believed of it: bytes, limited and validated; about its own account; never a path or an fd to act on.

    drop.py      run by the interpreter that the monitor exec'd: become the account, prove it, seal, only then read
    seal.py      seccomp and Landlock
    main.py      serve one job

Rejected: threads with setfsuid (a missed restore is another user's access, and a thread stuck in the kernel cannot be
killed); one long-lived worker for an account (what one job broke, the next would inherit).
"""
