//! The log (`-wal`) before SQLite reads it: does it end, or is it broken in the middle?
//!
//! SQLite takes a log up to the first frame whose checksum is wrong, and says nothing of what
//! stands behind. After a power cut that is the last commit, which was never synced: no loss.
//! But each commit is synced before the next one begins. So where two stand behind a break, and
//! the checksums tie the second to the first, the first was accepted, and what broke the log came
//! later. Without the tie they may be what two power cuts have left: of the first cut the end
//! stays until it is written over.
//!
//! ```text
//! header 32    magic, version, page size, number, salts 8, checksum 8
//! frame        page number 4, size of the file if it commits 4, salts 8, checksum 8, the page
//! ```

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fieldpost_fail_point::point;

use super::schema::{PAGE_BYTES, beside, free_name};

const HEADER_BYTES: usize = 32;
const FRAME_BYTES: usize = 24 + PAGE_BYTES as usize;

/// Copies a log that is broken before it ends to a `.damaged-...-log`, and returns where it is.
/// Not `-wal`: should the file turn out damaged too, the log is moved there, written to by then.
pub(super) fn keep_if_broken(outbox: &Path, wall_ms: i64) -> io::Result<Option<PathBuf>> {
    let log = beside(outbox, "-wal");
    let file = match std::fs::File::open(&log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !has_accepted_behind_a_break(&mut io::BufReader::new(file))? {
        return Ok(None);
    }
    let aside = beside(&free_name(outbox, wall_ms, &["-log"]), "-log");
    point!("outbox.log.before_copy");
    std::fs::copy(&log, &aside)?;
    point!("outbox.log.before_sync");
    // SQLite is about to write over what nobody else has.
    std::fs::File::open(&aside)?.sync_all()?;
    point!("outbox.log.after_copy");
    Ok(Some(aside))
}

/// Whether a commit was accepted that stands behind the first frame that SQLite will not take.
fn has_accepted_behind_a_break(log: &mut impl Read) -> io::Result<bool> {
    let mut header = [0; HEADER_BYTES];
    if !filled(log, &mut header)? {
        return Ok(false);
    }
    // The lowest bit of the magic number says in which order the checksums take bytes.
    let word_of = if header[3] & 1 == 1 { u32::from_be_bytes } else { u32::from_le_bytes };
    let sums = checksum(word_of, [0, 0], &header[..24]);
    let mut whole = sums == [word(&header, 24), word(&header, 28)];
    // If the header cannot be believed: this machine's order, and the salts of the first frame.
    let word_of = if whole { word_of } else { u32::from_ne_bytes };
    let mut salts = whole.then(|| header[16..24].to_vec());
    // Of the frame before: the checksum that it bears, and the one that it should.
    let mut before = [sums; 2];
    // There was a commit behind the break, and each frame since is tied to the one before it.
    let mut tied = false;
    let mut frame = [0; FRAME_BYTES];
    while filled(log, &mut frame)? {
        // Others are of a log that was here before this one.
        let ours = *salts.get_or_insert_with(|| frame[8..16].to_vec()) == frame[8..16];
        let commits = ours && word(&frame, 4) != 0;
        let borne = [word(&frame, 16), word(&frame, 20)];
        let after = before
            .map(|sums| checksum(word_of, checksum(word_of, sums, &frame[..8]), &frame[24..]));
        let fits = ours && after.contains(&borne);
        whole = whole && fits;
        tied = tied && fits;
        if tied && commits {
            return Ok(true);
        }
        tied = tied || (!whole && commits);
        before = [borne, after[0]];
    }
    Ok(false)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As SQLite adds up pairs of words, going on from `sums`.
fn checksum(word_of: fn([u8; 4]) -> u32, sums: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let (pairs, _) = bytes.as_chunks::<8>();
    pairs.iter().fold(sums, |[s0, s1], &[a, b, c, d, e, f, g, h]| {
        let s0 = s0.wrapping_add(word_of([a, b, c, d])).wrapping_add(s1);
        [s0, s1.wrapping_add(word_of([e, f, g, h])).wrapping_add(s0)]
    })
}

/// Whether there was enough to fill it.
fn filled(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}
