-- Version 1, with held.sql beside it. Times are Unix milliseconds; ids of 16 bytes are blobs, shown as hex by the views.

CREATE TABLE store (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    id      BLOB NOT NULL,      -- the service's storage, for life
    gen     BLOB NOT NULL,      -- this incarnation of it
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL    -- when gen was given
) STRICT;

CREATE TABLE device (
    ref        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT,
    location   TEXT,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER,         -- of any message that was not a retained one
    online     INTEGER,         -- what the last status said, and when it came
    status     TEXT,
    status_at  INTEGER,
    reported   TEXT
) STRICT;

CREATE TABLE source (
    ref    INTEGER PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES device,
    id     TEXT NOT NULL,
    name   TEXT,
    UNIQUE (device, id)
) STRICT;

CREATE TABLE unit (
    source INTEGER NOT NULL REFERENCES source,
    metric TEXT NOT NULL,
    unit   TEXT NOT NULL,
    PRIMARY KEY (source, metric)
) WITHOUT ROWID, STRICT;

CREATE TABLE epoch (
    ref           INTEGER PRIMARY KEY,
    device        INTEGER NOT NULL REFERENCES device,
    epoch         BLOB NOT NULL,
    base          INTEGER,      -- time of offset 0; fixed by the first rows that are stored
    clock         TEXT,
    hello_applied INTEGER,
    hello_no      INTEGER,      -- the hello that is being collected
    hello_pages   INTEGER,
    superseded    INTEGER NOT NULL DEFAULT 0,   -- Unix ms of another epoch's hello; 0: none
    UNIQUE (device, epoch)
) STRICT;

CREATE TABLE hello_page (
    epoch   INTEGER NOT NULL REFERENCES epoch,
    page    INTEGER NOT NULL,
    streams TEXT NOT NULL,
    PRIMARY KEY (epoch, page)
) WITHOUT ROWID, STRICT;

CREATE TABLE stream (
    ref              INTEGER PRIMARY KEY,
    epoch            INTEGER NOT NULL REFERENCES epoch,
    stream           TEXT NOT NULL,
    floor            INTEGER NOT NULL,
    floor_by_absence INTEGER NOT NULL,
    claimed          INTEGER NOT NULL,
    coverage         TEXT NOT NULL,     -- JSON: [[lo,hi],...], sorted, apart
    UNIQUE (epoch, stream)
) STRICT;

CREATE TABLE reading (
    epoch   INTEGER NOT NULL REFERENCES epoch,
    seq     INTEGER NOT NULL,
    source  INTEGER NOT NULL REFERENCES source,
    time    INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID, STRICT;
CREATE INDEX reading_by_time ON reading (source, time);

CREATE TABLE alert (
    epoch    INTEGER NOT NULL REFERENCES epoch,
    seq      INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    name     TEXT NOT NULL,
    about    TEXT,
    state    TEXT NOT NULL,
    severity TEXT NOT NULL,
    message  TEXT NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID, STRICT;

CREATE TABLE command_ack (
    epoch   INTEGER NOT NULL REFERENCES epoch,
    seq     INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    id      TEXT NOT NULL,
    target  BLOB NOT NULL,
    outcome TEXT NOT NULL,
    detail  TEXT,
    result  TEXT NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID, STRICT;

CREATE TABLE dead_letter (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    stream   INTEGER NOT NULL REFERENCES stream,
    seqs     TEXT NOT NULL,     -- as in stream.coverage: what nothing else covers
    topic    TEXT NOT NULL,
    message  BLOB,              -- the whole batch; NULL once dropped
    reason   TEXT NOT NULL,
    received INTEGER NOT NULL,
    dropped  INTEGER
) STRICT;
CREATE INDEX dead_letter_open ON dead_letter (stream) WHERE dropped IS NULL;

CREATE TABLE alarm (
    kind     TEXT NOT NULL,
    about    TEXT NOT NULL,
    first_at INTEGER NOT NULL,
    last_at  INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    message  TEXT NOT NULL,     -- of the last one
    PRIMARY KEY (kind, about)
) WITHOUT ROWID, STRICT;

-- What people and dashboards read.

-- Stale too is who was last seen in the future: the clock was set back since. unixepoch() without
-- 'subsec', which is null to an SQLite before 3.42 and would make everybody online.
CREATE VIEW devices AS
SELECT id AS device, name, location,
       CASE WHEN last_seen IS NULL
              OR abs(unixepoch() * 1000 - last_seen) > 180000 THEN 'stale'
            WHEN online = 0 AND status_at >= last_seen THEN 'offline'
            ELSE 'online' END AS state,
       first_seen, last_seen, status
FROM device;

-- CROSS JOIN is SQLite's word for "in this order": source by source, so that a range of times
-- alone, as dashboards ask for, finds its rows by the index and does not go through all.
CREATE VIEW readings AS
SELECT d.id AS device, s.id AS source, lower(hex(e.epoch)) AS epoch, r.seq, r.time, e.clock, r.metrics
FROM device d
CROSS JOIN source s ON s.device = d.ref
CROSS JOIN reading r ON r.source = s.ref
JOIN epoch e ON e.ref = r.epoch;

CREATE VIEW measurement AS
SELECT d.id AS device, coalesce(d.name, d.id) AS device_name, d.location,
       s.id AS source, coalesce(s.name, s.id) AS source_name,
       m.key AS metric, u.unit, r.time, m.value
FROM device d
CROSS JOIN source s ON s.device = d.ref
CROSS JOIN reading r ON r.source = s.ref
JOIN json_each(r.metrics) m
LEFT JOIN unit u ON u.source = s.ref AND u.metric = m.key;

-- What no message has covered, stream by stream: between two runs, before the first, after
-- the last. A stream whose coverage is one whole run has none and is not unfolded.
CREATE VIEW uncovered AS
SELECT stream, floor, claimed, lo, hi FROM (
    SELECT stream, floor, claimed,
           1 + lag(hi, 1, 0) OVER (PARTITION BY stream ORDER BY lo) AS lo, lo - 1 AS hi
    FROM (
        SELECT st.ref AS stream, st.floor, st.claimed, c.value ->> 0 AS lo, c.value ->> 1 AS hi
        FROM stream st, json_each(st.coverage) c
        WHERE st.coverage <> '[[1,' || st.claimed || ']]'
        UNION ALL
        SELECT ref, floor, claimed, claimed + 1, claimed + 1 FROM stream
        WHERE coverage <> '[[1,' || claimed || ']]'
    )
) WHERE lo <= hi;

CREATE VIEW waiting AS
SELECT d.id AS device, lower(hex(e.epoch)) AS epoch, st.stream,
       max(u.lo, u.floor) AS first, u.hi AS last, u.hi - max(u.lo, u.floor) + 1 AS n
FROM uncovered u
JOIN stream st ON st.ref = u.stream
JOIN epoch e ON e.ref = st.epoch
JOIN device d ON d.ref = e.device
WHERE u.hi >= u.floor;

CREATE VIEW missing AS
SELECT d.id AS device, lower(hex(e.epoch)) AS epoch, st.stream, x.why,
       x.lo AS first, x.hi AS last, x.hi - x.lo + 1 AS n
FROM (
    SELECT stream, 'lost' AS why, lo, min(hi, floor - 1) AS hi FROM uncovered WHERE lo < floor
    UNION ALL
    SELECT dl.stream, 'dropped', s.value ->> 0, s.value ->> 1
    FROM dead_letter dl, json_each(dl.seqs) s WHERE dl.dropped IS NOT NULL
) x
JOIN stream st ON st.ref = x.stream
JOIN epoch e ON e.ref = st.epoch
JOIN device d ON d.ref = e.device;

CREATE VIEW dead_letters AS
SELECT dl.id, d.id AS device, lower(hex(e.epoch)) AS epoch, st.stream, dl.seqs, dl.topic,
       CASE WHEN dl.dropped IS NULL THEN 'open' ELSE 'dropped' END AS state,
       length(dl.message) AS bytes, dl.reason, dl.received, dl.dropped
FROM dead_letter dl
JOIN stream st ON st.ref = dl.stream
JOIN epoch e ON e.ref = st.epoch
JOIN device d ON d.ref = e.device;

CREATE VIEW alerts AS
SELECT d.id AS device, a.time, a.name, a.about, a.state, a.severity, a.message,
       lower(hex(e.epoch)) AS epoch, a.seq
FROM alert a
JOIN epoch e ON e.ref = a.epoch
JOIN device d ON d.ref = e.device;

-- Raised and not cleared, by order of epochs and numbers, never of clocks. What an epoch of
-- the past had raised is over: the process that would clear it is gone.
CREATE VIEW alerts_now AS
SELECT device, time, name, about, severity, message FROM (
    SELECT d.id AS device, a.time, a.name, a.about, a.state, a.severity, a.message, e.superseded,
           row_number() OVER (PARTITION BY e.device, a.name, a.about
                              ORDER BY a.epoch DESC, a.seq DESC) AS nth
    FROM alert a
    JOIN epoch e ON e.ref = a.epoch
    JOIN device d ON d.ref = e.device
) WHERE nth = 1 AND state = 'raised' AND NOT superseded;

CREATE VIEW command_acks AS
SELECT d.id AS device, c.time, c.id, lower(hex(c.target)) AS target, c.outcome, c.detail, c.result,
       lower(hex(e.epoch)) AS epoch, c.seq
FROM command_ack c
JOIN epoch e ON e.ref = c.epoch
JOIN device d ON d.ref = e.device;
