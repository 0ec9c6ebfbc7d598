"""The database's schema, every column explained, and the way from older versions. [daemon] Pure text and numbers.

The text below is the manual of state.db: nobody should need the code to read a state directory. First the tables as
version 1 had them, then what each later version added. Kept in a module and not in a .sql file, so that the package is
whole without package data.

Conventions: names of files are BLOB, as bytes, relative to the account's home. Times are REAL, Unix epoch seconds.
Sizes are bytes. dev, ino and mtime_ns are as model.int64 gives them: signed 64-bit numbers with the kernel's bits.
Ids are AUTOINCREMENT where somebody else may remember them: never used twice, also after rows were pruned.
"""

APPLICATION_ID = 0x43534344
"""`CSCD`, in SQLite's header: a file without it is not ours and is not touched."""

SCHEMA = """
-- Counters. One row, `turn`: the number of jobs (scans and tasks) ever asked for. It orders the queue, where a clock
-- could step back, and gives the first half of a task's public id.
CREATE TABLE sequence (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO sequence VALUES ('turn', 0);

-- Whose state it is. By uid AND name: when another name stands behind a uid, the old rows are not the newcomer's.
CREATE TABLE account (
    id   INTEGER PRIMARY KEY,
    uid  INTEGER NOT NULL CHECK (uid BETWEEN 0 AND 4294967294),
    name TEXT    NOT NULL CHECK (name <> ''),
    UNIQUE (uid, name)
) STRICT;

-- One scan of one account.
CREATE TABLE scan (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,  -- scan_id on the wire
    account       INTEGER NOT NULL REFERENCES account (id),
    turn          INTEGER NOT NULL UNIQUE,            -- its place in the queue, kept when it is parked
    scan_type     TEXT    NOT NULL,                   -- as asked for: home, mail, ...
    paths         BLOB    NOT NULL CHECK (length(paths) > 0),  -- what it covers, NUL between them; "." is the home
    state         TEXT    NOT NULL
                  CHECK (state IN ('queued', 'running', 'paused', 'done', 'cancelled', 'failed')),
    asked_by      INTEGER NOT NULL,                   -- uid of the peer: the account's or an admin's
    asked_at      REAL    NOT NULL,
    started_at    REAL,                               -- of the first run; NULL until then
    ended_at      REAL,                               -- NULL until done, cancelled or failed
    resumed       INTEGER NOT NULL DEFAULT 0,         -- how often it was interrupted and queued again
    total_files   INTEGER NOT NULL DEFAULT 0,         -- every entry met that is no directory
    total_bytes   INTEGER NOT NULL DEFAULT 0,
    scanned_files INTEGER NOT NULL DEFAULT 0,         -- with the verdict clean or infected, cached ones included
    scanned_bytes INTEGER NOT NULL DEFAULT 0,
    infected_files INTEGER NOT NULL DEFAULT 0,        -- all found, also those beyond max_findings_per_scan
    cached_files  INTEGER NOT NULL DEFAULT 0,
    not_scanned   TEXT    NOT NULL DEFAULT '{}',      -- JSON object: reason -> count, all of them
    engine        TEXT    NOT NULL DEFAULT '{}',      -- JSON object: version, database, database_time, blind
    message       TEXT    NOT NULL DEFAULT '',        -- why it failed or was cancelled; '' otherwise
    CHECK ((ended_at IS NOT NULL) = (state IN ('done', 'cancelled', 'failed'))),
    UNIQUE (account, id)
) STRICT;
-- One job of an account at a time (architecture, rule 10).
CREATE UNIQUE INDEX scan_under_way ON scan (account) WHERE state IN ('queued', 'running', 'paused');

-- One infected file that a scan found. A path of an account stands at most once: in the last scan that found it.
CREATE TABLE finding (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    scan      INTEGER NOT NULL,
    account   INTEGER NOT NULL,      -- the scan's; here too so that the index below can hold the rule above
    path      BLOB    NOT NULL CHECK (length(path) BETWEEN 1 AND 4095),
    dev       INTEGER NOT NULL,      -- dev to sha256: the identity taken at detection (rule 5)
    ino       INTEGER NOT NULL,
    size      INTEGER NOT NULL CHECK (size >= 0),
    mtime_ns  INTEGER NOT NULL,
    sha256    BLOB    NOT NULL CHECK (length(sha256) = 32),
    signature TEXT    NOT NULL CHECK (signature <> ''),
    state     TEXT    NOT NULL       -- cleared: looked at later and gone, clean, or standing in a later scan's row
              CHECK (state IN ('standing', 'deleted', 'quarantined', 'cleansed', 'cleared')),
    found_at  REAL    NOT NULL,
    messages  INTEGER NOT NULL DEFAULT 0,  -- infected messages in it, kept below or not; 0 for what is no mail
    UNIQUE (scan, path),
    FOREIGN KEY (account, scan) REFERENCES scan (account, id) ON DELETE CASCADE
) STRICT;
CREATE UNIQUE INDEX finding_standing ON finding (account, path) WHERE state = 'standing';
CREATE INDEX finding_of_scan ON finding (scan, id) WHERE state = 'standing';
CREATE INDEX finding_owner ON finding (account, scan);

-- The infected messages of a finding, as far as kept (10,000 each, 100,000 a scan); finding.messages counts them all.
CREATE TABLE finding_message (
    finding     INTEGER NOT NULL REFERENCES finding (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL CHECK (number >= 0),  -- its place in the mailbox, from 1; 0: the file is one message
    range_start INTEGER NOT NULL CHECK (range_start >= 0),
    range_end   INTEGER NOT NULL CHECK (range_end >= range_start),
    message_id  TEXT    NOT NULL,                      -- message_id to date: of its header, decoded, for people
    subject     TEXT    NOT NULL,
    sender      TEXT    NOT NULL,
    date        TEXT    NOT NULL,
    signature   TEXT    NOT NULL,
    sha256      BLOB    NOT NULL CHECK (length(sha256) = 32),  -- of the whole range: by it a cleanse knows it again
    PRIMARY KEY (finding, number)
) STRICT, WITHOUT ROWID;

-- Files that a scan could not vouch for, as far as kept (max_not_scanned_per_scan); scan.not_scanned counts them all.
CREATE TABLE not_scanned (
    scan   INTEGER NOT NULL REFERENCES scan (id) ON DELETE CASCADE,
    seq    INTEGER NOT NULL CHECK (seq >= 1),  -- in the order reported, from 1, without gaps
    path   BLOB    NOT NULL CHECK (length(path) >= 1),
    reason TEXT    NOT NULL CHECK (reason <> ''),
    PRIMARY KEY (scan, seq)
) STRICT, WITHOUT ROWID;

-- One disinfection, restore or undo.
CREATE TABLE task (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id  TEXT    NOT NULL UNIQUE,   -- task_id on the wire: the turn in 8 hex digits, "/", 14 random ones
    account    INTEGER NOT NULL REFERENCES account (id),
    kind       TEXT    NOT NULL CHECK (kind IN ('disinfect', 'restore', 'undo')),
    undoes     TEXT    NOT NULL DEFAULT '',  -- public_id of the disinfection that an undo puts back; '' otherwise
    scan       INTEGER NOT NULL,          -- a disinfection's, whose findings were chosen from; may be pruned before
                                          -- the task is. 0 for the other kinds.
    turn       INTEGER NOT NULL UNIQUE,
    state      TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'done')),
    asked_by   INTEGER NOT NULL,
    asked_at   REAL    NOT NULL,
    started_at REAL,                      -- of the first run; NULL until then
    ended_at   REAL,                      -- set with the done record
    CHECK ((ended_at IS NOT NULL) = (state = 'done')),
    CHECK ((undoes <> '') = (kind = 'undo'))
) STRICT;
CREATE INDEX task_owner ON task (account, id);
CREATE INDEX task_latest ON task (account, id) WHERE kind = 'disinfect';
CREATE UNIQUE INDEX task_under_way ON task (account) WHERE state <> 'done';

-- One file of a disinfection. Committed as doing before the worker is told, as ended after its proof (rule 6).
CREATE TABLE step (
    task      INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    seq       INTEGER NOT NULL CHECK (seq >= 1),   -- in the order asked, from 1, without gaps
    path      BLOB    NOT NULL CHECK (length(path) BETWEEN 1 AND 4095),
    action    TEXT    NOT NULL CHECK (action IN ('ignore', 'delete', 'quarantine', 'cleanse_mailbox')),
    finding   INTEGER NOT NULL,                    -- id of the finding; its row may be pruned before this one
    dev       INTEGER NOT NULL,                    -- dev to signature: the finding's, as of the asking
    ino       INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    mtime_ns  INTEGER NOT NULL,
    sha256    BLOB    NOT NULL CHECK (length(sha256) = 32),
    signature TEXT    NOT NULL,
    state     TEXT    NOT NULL CHECK (state IN ('waiting', 'doing', 'ended')),
    capture   BLOB    NOT NULL DEFAULT x'',        -- random name in the file's directory; empty until doing
    outcome   TEXT    CHECK (outcome IN ('deleted', 'quarantined', 'mailbox-cleansed', 'no-action', 'error')),
    message   TEXT,                                -- NULL: nothing to say
    item      INTEGER,                             -- what the vault keeps of it; the item may be removed since
    ended_at  REAL,
    CHECK ((state = 'doing') <= (length(capture) > 0)),
    CHECK ((state = 'ended') = (outcome IS NOT NULL)),
    CHECK ((state = 'ended') = (ended_at IS NOT NULL)),
    PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX step_open ON step (task, state, seq) WHERE state <> 'ended';

-- One item of a restore or an undo. Committed as doing before the worker is told, as ended after its proof (rule 6);
-- the item leaves the vault's list in the transaction that ends the step.
CREATE TABLE restore_step (
    task      INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    seq       INTEGER NOT NULL CHECK (seq >= 1),   -- in the order asked, from 1, without gaps
    item      INTEGER NOT NULL,                    -- stays kept while the step is open
    path      BLOB    NOT NULL CHECK (length(path) BETWEEN 1 AND 4095),    -- where it was taken from
    target    BLOB    NOT NULL CHECK (length(target) BETWEEN 1 AND 4095),  -- where it is to stand
    make_dirs INTEGER NOT NULL CHECK (make_dirs IN (0, 1)),  -- 1: missing directories of the target are made, 0700
    force     INTEGER NOT NULL CHECK (force IN (0, 1)),      -- 1: also if signatures still detect it
    state     TEXT    NOT NULL CHECK (state IN ('waiting', 'doing', 'ended')),
    capture   BLOB    NOT NULL DEFAULT x'',        -- random name, where files cannot be written without one
    outcome   TEXT    CHECK (outcome IN ('restored', 'no-action', 'error')),
    message   TEXT,                                -- NULL: nothing to say
    ended_at  REAL,
    CHECK ((state = 'doing') <= (length(capture) > 0)),
    CHECK ((state = 'ended') = (outcome IS NOT NULL)),
    CHECK ((state = 'ended') = (ended_at IS NOT NULL)),
    PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX restore_open ON restore_step (task, state, seq) WHERE state <> 'ended';
CREATE UNIQUE INDEX restore_of_item ON restore_step (item) WHERE state <> 'ended';

-- The records of a task, answered as details; a disinfection's are also its log in the home. The truth of both.
CREATE TABLE record (
    task INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    id   INTEGER NOT NULL CHECK (id >= 1),         -- from 1 without gaps
    kind TEXT    NOT NULL CHECK (kind IN ('step', 'warning', 'error', 'done')),  -- warning, error: an issue's state
    body BLOB    NOT NULL,                         -- the JSON object, byte for byte, without the newline
    PRIMARY KEY (task, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_error ON record (task) WHERE kind = 'error';

-- The vault's index: one content each. Outlives the task and the scan it came from.
CREATE TABLE item (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    account     INTEGER NOT NULL REFERENCES account (id),
    task        INTEGER NOT NULL,        -- task and seq: the step it came from
    seq         INTEGER NOT NULL,
    path        BLOB    NOT NULL CHECK (length(path) BETWEEN 1 AND 4095),
    action      TEXT    NOT NULL CHECK (action IN ('delete', 'quarantine', 'cleanse_mailbox')),
    size        INTEGER NOT NULL CHECK (size >= 0),    -- while receiving: as announced, and so held against the caps
    sha256      BLOB    CHECK (length(sha256) = 32),   -- of the original content, taken by the daemon itself
    signature   TEXT    NOT NULL,
    owner       INTEGER NOT NULL,        -- owner to xattrs: the worker's word, for a restore
    grp         INTEGER NOT NULL,
    mode        INTEGER NOT NULL,        -- permission bits
    mtime_ns    INTEGER NOT NULL,
    xattrs      BLOB    NOT NULL,        -- opaque here; empty: none
    file        TEXT    NOT NULL UNIQUE CHECK (length(file) = 32),  -- random; its name in `place`
    place       TEXT    NOT NULL DEFAULT 'file' CHECK (place IN ('file', 'blob')),
                -- file: vault/<first 2>/<file>.item. blob: a row of vault/small.db.
    state       TEXT    NOT NULL CHECK (state IN ('receiving', 'kept', 'removed')),
                -- receiving: the content may be there, whole or not, and is worth nothing; owner to
                -- mtime_ns of a blob are 0 until it is kept.
                -- kept: it is there, whole and on disk. removed: it is being removed, then the row goes.
    reserved_at REAL    NOT NULL,
    kept_at     REAL,
    expires_at  REAL,
    part        INTEGER NOT NULL DEFAULT 0 CHECK (part >= 0),  -- 0: a whole file; else the step's n-th message
    range_start INTEGER NOT NULL DEFAULT 0,      -- of a message: the bytes of the mailbox that it took
    range_end   INTEGER NOT NULL DEFAULT 0,
    notice      BLOB    NOT NULL DEFAULT x'' CHECK (length(notice) IN (0, 32)),
                -- of a message: SHA-256 of what is to stand in its place. With the range and sha256 this is the journal
                -- of a cleanse: committed before the first byte is overwritten. Empty: nothing was overwritten.
    CHECK ((part = 0) <= (length(notice) = 0)),
    CHECK ((state = 'receiving') = (sha256 IS NULL)),
    CHECK ((state = 'receiving') = (kept_at IS NULL)),
    CHECK ((state = 'receiving') = (expires_at IS NULL))
) STRICT;
CREATE INDEX item_usage ON item (account, state, size);
CREATE INDEX item_of_step ON item (task, seq);
CREATE INDEX item_expiry ON item (expires_at) WHERE state = 'kept';
CREATE INDEX item_in_passing ON item (state) WHERE state <> 'kept';
CREATE INDEX item_deleted ON item (account, kept_at) WHERE state = 'kept' AND action = 'delete';
"""

ENGINES_AND_MAILBOXES = """
-- Which engine said so: of the scan that the item was found by. '' and 0: not known (kept before this was recorded, or
-- the scan was pruned by then).
ALTER TABLE item ADD COLUMN engine TEXT NOT NULL DEFAULT '';                            -- version
ALTER TABLE item ADD COLUMN database INTEGER NOT NULL DEFAULT 0 CHECK (database >= 0);  -- version of its signatures
UPDATE item SET engine = coalesce(json_extract(scan.engine, '$.version'), ''),
                database = coalesce(json_extract(scan.engine, '$.database'), 0)
    FROM task JOIN scan ON scan.id = task.scan WHERE task.id = item.task;

-- Messages in the mailbox (mbox) that the file is, infected or not; 0: a mailbox that was not read to its end, so that
-- its number is unknown, and infected ones may be missing below; NULL: no mailbox.
ALTER TABLE finding ADD COLUMN mailbox INTEGER CHECK (mailbox >= 0);
UPDATE finding SET mailbox = 0
    WHERE EXISTS (SELECT 1 FROM finding_message m WHERE m.finding = finding.id AND m.number > 0);

-- 1: not found by the scan, but put back by force after it: on the list to act on, not among what the scan found.
ALTER TABLE finding ADD COLUMN restored INTEGER NOT NULL DEFAULT 0 CHECK (restored IN (0, 1));
DROP INDEX finding_owner;
CREATE INDEX finding_owner ON finding (account, scan, restored);

-- 0: a notice stands in its place, while others of the mailbox were put back by force. finding.messages counts without.
ALTER TABLE finding_message ADD COLUMN listed INTEGER NOT NULL DEFAULT 1 CHECK (listed IN (0, 1));
"""

IGNORE_LIST = """
-- What an account wants passed over. A finding knows nothing of it: whether one is ignored is seen when it is shown or
-- acted on, so that without the entry it is at once what it was.
CREATE TABLE ignore_entry (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    account    INTEGER NOT NULL REFERENCES account (id),
    kind       TEXT    NOT NULL CHECK (kind IN ('path', 'signature', 'sha256')),
    value      BLOB    NOT NULL CHECK (length(value) BETWEEN 1 AND 8192),  -- a glob; a name in UTF-8; 32 bytes
    note       TEXT    NOT NULL,
    added_by   INTEGER NOT NULL,      -- uid of the peer: the account's or an admin's
    added_at   REAL    NOT NULL,
    expires_at REAL,                  -- NULL: never. Kept after it, without effect, until room is needed
    UNIQUE (account, kind, value)
) STRICT;
"""

OWNERS_OF_FINDINGS = """
-- uid that the file belonged to when it was found: an account can read others' files. NULL: not known.
ALTER TABLE finding ADD COLUMN owner INTEGER CHECK (owner >= 0);
"""

EXCLUDES = """
-- What the configuration left out when the scan last began: patterns (globs.py) with NUL between them. Empty: nothing,
-- or the scan has not begun.
ALTER TABLE scan ADD COLUMN excludes BLOB NOT NULL DEFAULT x'';
"""

RECENT_AND_PAUSED = """
-- A recent scan leaves out files that did not change (ctime) since then. Epoch seconds, decided when it was asked for;
-- NULL: all files are scanned.
ALTER TABLE scan ADD COLUMN since REAL;
-- How often it was paused. Each pause of a running scan is also one of `resumed`, and no sign of something wrong.
ALTER TABLE scan ADD COLUMN pauses INTEGER NOT NULL DEFAULT 0 CHECK (pauses >= 0);
"""

NOTIFICATIONS = """
-- Notifications, per account: `scan` is the last ended one that was looked at for something new, `told_at` when the
-- latest digest was made (0: none yet).
CREATE TABLE notified (
    account INTEGER PRIMARY KEY REFERENCES account (id),
    scan    INTEGER NOT NULL,
    told_at REAL    NOT NULL DEFAULT 0
) STRICT;

-- An infected file that a digest has told of; not told of again while it stands, whichever scan finds it. By signature
-- and not by content: a mailbox with one infected message is another content every day.
CREATE TABLE reported (
    account   INTEGER NOT NULL REFERENCES account (id),
    path      BLOB    NOT NULL CHECK (length(path) >= 1),
    signature TEXT    NOT NULL CHECK (signature <> ''),
    PRIMARY KEY (account, path, signature)
) STRICT, WITHOUT ROWID;

-- A digest that is not known to be in the outbox yet. It is made in the transaction that marks what it tells of, and
-- the row goes when the file is on disk: after a crash in between the same file is written again, under the same id.
CREATE TABLE digest (
    id      TEXT PRIMARY KEY CHECK (length(id) = 32),  -- random; the name of the file
    made_at REAL NOT NULL,
    body    BLOB NOT NULL                              -- the file, byte for byte
) STRICT, WITHOUT ROWID;

-- Troubles of the engine that administrators were told of.
CREATE TABLE told (
    topic    TEXT PRIMARY KEY,
    told_at  REAL    NOT NULL,
    standing INTEGER NOT NULL CHECK (standing IN (0, 1))  -- 0: it has passed since
) STRICT, WITHOUT ROWID;
"""

SCHEDULED = """
-- Asked for by a timer, and not by somebody who waits: people's scans go first. 0 or 1.
ALTER TABLE scan ADD COLUMN scheduled INTEGER NOT NULL DEFAULT 0 CHECK (scheduled IN (0, 1));
"""

ENGINES_OF_FINDINGS = """
-- JSON object (model.EngineInfo, without blind) of the engine that found it: a scan may use several. NULL: not known.
ALTER TABLE finding ADD COLUMN engine TEXT;
"""

DEPTHS = """
-- What an earlier verdict on an unchanged file is worth to the scan: as much as one now under the same signatures,
-- under earlier ones as well, or nothing.
ALTER TABLE scan ADD COLUMN depth TEXT NOT NULL DEFAULT 'full' CHECK (depth IN ('full', 'rapid', 'nocache'));
-- JSON object: of cached_files, how many were last checked with which earlier database.
ALTER TABLE scan ADD COLUMN earlier TEXT NOT NULL DEFAULT '{}';
"""

MIGRATIONS: tuple[str, ...] = (
    SCHEMA,
    ENGINES_AND_MAILBOXES,
    IGNORE_LIST,
    OWNERS_OF_FINDINGS,
    EXCLUDES,
    RECENT_AND_PAUSED,
    NOTIFICATIONS,
    SCHEDULED,
    ENGINES_OF_FINDINGS,
    DEPTHS,
)
"""MIGRATIONS[n] brings a file from version n to n + 1, in one transaction. A new file is made by all of them."""

VERSION = len(MIGRATIONS)
"""PRAGMA user_version of what this program writes. Higher in the file: a newer program wrote it, we refuse."""
