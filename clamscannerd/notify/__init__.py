"""[notify] Runs the hooks on digests, in a process, under a user and in a sandbox of its own; with network.

    outbox/ID.json (the daemon's) --> each hook of /etc/clamscannerd/hooks.d, JSON on its stdin --> mail, chat, ticket
                                  --> the file goes when every hook has succeeded or was given up
    records/ID.json (ours): which hook has succeeded, how often each was tried, when it is tried next

It believes: that the daemon's digests are JSON of bounded size, and of nothing in them that it would be a path or a
command; that root wrote the hooks, which it checks for each run, link by link. It has no way to the daemon, its state,
or a home. Who takes it over can read, remove and forge digests, and send what its user may send.

A digest is handed to a hook at least once: the try is recorded before it begins and the success after it has ended, so
a crash in between runs that hook again, with the same id in the digest. A hook that succeeded is not run again for the
same id, also if the daemon writes the digest once more (it does after a crash).

Rejected: hooks run by the daemon (no setgid, no network, and a hook that hangs or leaks beside the vault); a service
for each digest (no order, and no bound); mail from the program itself (every site sends another way).
"""
