"""What must survive a crash. [daemon]

    service, pipeline, runner
        |  awaits one method = one transaction
    store.Store ---------> store_open.Database ----> state.db (SQLite: WAL, synchronous=FULL)
        |  store_scans, store_tasks, store_items: rows <-> model's values, and the only SQL
        |  tasks: the legal moves, pure
    vault.Vault ---------> vault/HH/HEX.item (content, neutralised), its index in state.db

Whatever was acknowledged to a client is on disk before the answer is sent. The event loop never touches SQLite or a
file: threads do. The database is the truth; logs in homes are output (architecture, rules 6 and 9).
"""
