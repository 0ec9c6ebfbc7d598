"""What is known to be clean, kept between scans: one file an account, made by the [daemon], read by the [worker].

    table.py   how a fingerprint is found in a table: both use it
    basis.py   what a verdict rests on, and when one that was given under something else still counts
    files.py   the files in the cache directory: opened for a job, added to, replaced

The daemon owns the files; a worker gets one as an fd that was opened for reading, and the key of its own account. A
file is 0600 and the service's: nothing that a worker can do with its fd makes it writable, /proc/self/fd included, and
it is replaced as a whole, never changed in place, so that nothing moves under a worker that has it mapped. What a
worker says is clean is its word about its own account, and is kept under that account's key: for any other it is noise.

Nothing here is needed: without the directory, or with any part of it gone, files are scanned as if never seen.

Rejected: memfds with seals (a copy of the file for each job, in memory that is nobody's); one table for all accounts
(one lying worker would whitelist its malware for all); SQLite (60 bytes a file, and a writer for the daemon's loop).
"""
