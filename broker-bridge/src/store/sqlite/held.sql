-- What lets a hello cost what it names and what is held, not how many epochs the device ever had.
-- Run whenever a storage is opened that lacks it. SQLite keeps it up to date whichever version of
-- the program writes, so that the version of the file stays.

-- Streams with floor <= claimed. Each begins with floor 1 and claimed 0.
CREATE TABLE held (
    device INTEGER NOT NULL REFERENCES device,
    stream INTEGER NOT NULL REFERENCES stream,
    PRIMARY KEY (device, stream)
) WITHOUT ROWID, STRICT;

CREATE TRIGGER stream_held_now AFTER UPDATE OF floor, claimed ON stream
WHEN new.floor <= new.claimed AND old.floor > old.claimed
BEGIN
    INSERT OR IGNORE INTO held SELECT device, new.ref FROM epoch WHERE ref = new.epoch;
END;

CREATE TRIGGER stream_held_no_more AFTER UPDATE OF floor, claimed ON stream
WHEN new.floor > new.claimed AND old.floor <= old.claimed
BEGIN
    DELETE FROM held WHERE device = (SELECT device FROM epoch WHERE ref = new.epoch)
                       AND stream = new.ref;
END;

INSERT INTO held
SELECT e.device, s.ref FROM stream s JOIN epoch e ON e.ref = s.epoch WHERE s.floor <= s.claimed;

CREATE INDEX epoch_not_superseded ON epoch (device) WHERE NOT superseded;

DROP INDEX IF EXISTS stream_held;
