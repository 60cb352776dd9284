-- The ledger of commands, and what else came with it. Run whenever a storage is opened that lacks it.
-- An earlier version of the program passes over all of it, so that the version of the file stays.

CREATE TABLE IF NOT EXISTS command (
    device       INTEGER NOT NULL REFERENCES device,
    id           TEXT NOT NULL,
    name         TEXT NOT NULL,
    args         TEXT NOT NULL,     -- JSON
    content      BLOB NOT NULL,     -- name and args in short, as command acks name them
    expires      INTEGER,
    strict       INTEGER NOT NULL,
    origin       TEXT NOT NULL,     -- cli, person
    created      INTEGER NOT NULL,
    target       BLOB,              -- the epoch that it was issued to and that has not said it is over
    issued       INTEGER NOT NULL,
    first_issued INTEGER,
    next_at      INTEGER NOT NULL,  -- when it is looked at again
    outcome      TEXT,              -- NULL while it is open
    detail       TEXT,
    result       TEXT NOT NULL DEFAULT '{}',
    done_at      INTEGER,
    concluded    INTEGER NOT NULL DEFAULT 0,    -- by the bridge: a gateway's word replaces it
    PRIMARY KEY (device, id)
) WITHOUT ROWID, STRICT;

CREATE INDEX IF NOT EXISTS command_due ON command (next_at) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS command_open ON command (device, next_at) WHERE outcome IS NULL;
CREATE INDEX IF NOT EXISTS command_done ON command (device, done_at) WHERE outcome IS NOT NULL;
CREATE INDEX IF NOT EXISTS command_ack_by_id ON command_ack (id);

-- Alerts whose state the gateway keeps over restarts. Beside the table of alerts: a column more there
-- would keep an earlier version of the program from storing any.
CREATE TABLE IF NOT EXISTS alert_lasting (
    epoch INTEGER NOT NULL REFERENCES epoch,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (epoch, seq)
) WITHOUT ROWID, STRICT;

DROP VIEW IF EXISTS alerts_now;
-- Raised and not cleared, by order of epochs and numbers, never of clocks. What an epoch of
-- the past had raised is over, unless it lasts: the process that would clear it is gone.
CREATE VIEW alerts_now AS
SELECT device, time, name, about, severity, message FROM (
    SELECT d.id AS device, a.time, a.name, a.about, a.state, a.severity, a.message, e.superseded,
           EXISTS (SELECT 1 FROM alert_lasting l WHERE l.epoch = a.epoch AND l.seq = a.seq) AS lasting,
           row_number() OVER (PARTITION BY e.device, a.name, a.about
                              ORDER BY a.epoch DESC, a.seq DESC) AS nth
    FROM alert a
    JOIN epoch e ON e.ref = a.epoch
    JOIN device d ON d.ref = e.device
) WHERE nth = 1 AND state = 'raised' AND (lasting OR NOT superseded);

CREATE VIEW IF NOT EXISTS commands AS
SELECT d.id AS device, c.id, c.name, c.args, coalesce(c.outcome, 'open') AS state, c.detail, c.result,
       c.origin, c.created, c.expires, c.strict, c.issued, c.first_issued,
       CASE WHEN c.outcome IS NULL THEN c.next_at END AS next_at, c.done_at,
       lower(hex(c.target)) AS target
FROM command c JOIN device d ON d.ref = c.device;

-- Which bridge publishes what is due. The last to be made here: where it is, all is.
CREATE TABLE IF NOT EXISTS command_lease (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    holder BLOB NOT NULL,
    until  INTEGER NOT NULL
) STRICT;
