"""Whether an fd is infected: clamd's word, and what that word is worth.

    clamproto.py   [daemon, worker] sans-IO: the wire format of a session; what a reply lets us say of a file
    clamdconf.py   [daemon] pure: a clamd.conf -> its limits, and in plain sentences what such an engine cannot report
    private.py     [as started] pure: the clamd.conf of a private engine, and the built-in test signature
    fitting.py     [as started] pure: how many private engines this machine has the cores and the memory for
    control.py     [daemon, in threads] pyclamd: ping, version, stats, reload; which system clamd there is
    dialing.py     [daemon] a connection to a clamd, by Unix socket or TCP
    health.py      [daemon] one engine: is it there, does it scan, what is it; one session from it
    choice.py      [daemon] pure: which of several engines are used, and what holds for them together
    privately.py   [daemon] the life of the private ones: started, started again, changed over
    unit.py        [daemon] private engines as units of systemd: sockets that start them
    sessions.py    [daemon] the list of engines: which ones, and sessions to hand out

The worker imports clamproto alone. Nothing here opens a file of a user.
"""
