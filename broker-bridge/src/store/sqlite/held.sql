-- What lets a hello cost what it names and what is held, not how many epochs the device ever had.
-- Run whenever a storage is opened that lacks it. SQLite keeps it up to date whichever version of
-- the program writes, so that the version of the file stays.

-- Streams with floor <= claimed. Each begins with floor 1 and claimed 0.
CREATE TABLE IF NOT EXISTS held (
    device INTEGER NOT NULL REFERENCES device,
    stream INTEGER NOT NULL REFERENCES stream,
    PRIMARY KEY (device, stream)
) WITHOUT ROWID, STRICT;

CREATE TRIGGER IF NOT EXISTS stream_held_now AFTER UPDATE OF floor, claimed ON stream
WHEN new.floor <= new.claimed AND old.floor > old.claimed
BEGIN
    INSERT OR IGNORE INTO held SELECT device, new.ref FROM epoch WHERE ref = new.epoch;
END;

CREATE TRIGGER IF NOT EXISTS stream_held_no_more AFTER UPDATE OF floor, claimed ON stream
WHEN new.floor > new.claimed AND old.floor <= old.claimed
BEGIN
    DELETE FROM held WHERE device = (SELECT device FROM epoch WHERE ref = new.epoch)
                       AND stream = new.ref;
END;

INSERT OR IGNORE INTO held
SELECT e.device, s.ref FROM stream s JOIN epoch e ON e.ref = s.epoch WHERE s.floor <= s.claimed;

CREATE INDEX IF NOT EXISTS epoch_not_superseded ON epoch (device) WHERE NOT superseded;

-- Epochs of which nothing is stored: a device may have so many and no more. The last to be made
-- here: where it is, all is.
CREATE INDEX IF NOT EXISTS epoch_named ON epoch (device, superseded) WHERE base IS NULL;

DROP INDEX IF EXISTS stream_held;
