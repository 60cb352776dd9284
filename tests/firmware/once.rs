//! What `FieldpostOnce` claims after a power cut at any write, and on an EEPROM that is worn out.

use std::path::Path;

use fieldpost_tests::avr::printed;

use crate::tools;

const SKETCH: &str = r#"
#include <EEPROM.h>
#include "done.h"

// An EEPROM in memory: its current may be cut after some writes, and cells may be worn out.
struct Cells {
    static const int SIZE = 80, ALL = -2, NONE = -1;
    uint8_t cells[SIZE];
    int writes = -1, worn = NONE;

    uint8_t read(int at) { return cells[at]; }
    void update(int at, uint8_t value) {
        if (writes == 0 || cells[at] == value) return;
        if (writes > 0) writes--;
        if (at != worn && worn != ALL) cells[at] = value;
    }
};
EEPROMClass &of_the_board = EEPROM;
Cells cells;
#define EEPROM cells
#include <FieldpostOnce.h>
#undef EEPROM

struct Said : public Stream {
    String text;
    int available() override { return 0; }
    int peek() override { return -1; }
    int read() override { return -1; }
    size_t write(uint8_t byte) override { text += (char)byte; return 1; }
};

Said said;
bool ran;

struct Probe : public FieldpostOnce {
    Probe() : FieldpostOnce(said) {}
    static void handler(const char *, const char *);
    // What it says, without its number.
    String ask(uint32_t no, const char *name, const char *args) {
        said.text = "";
        id = no;
        answered = NONE;
        perform(handler, name, args);
        return said.text.substring(said.text.indexOf(' ') + 1);
    }
    String dose(uint32_t no) { ran = false; return ask(no, "dose", ""); }
    String last(uint32_t no) { return ask(1, "last", ("no=" + String(no)).c_str()); }
};

Probe probe;
void Probe::handler(const char *, const char *) {
    ran = cells.writes != 0;
    probe.ok();
}

void new_board() {
    cells.writes = -1;
    cells.worn = Cells::NONE;
    memset(cells.cells, 0xFF, Cells::SIZE);
}

// After each number of writes the current is cut, before the handler has run: nobody may say that it has.
void cut() {
    long trials = 0, claimed = 0;
    new_board();
    for (uint32_t no = 100; no < 109; no++) probe.dose(no);
    uint8_t before[Cells::SIZE];
    memcpy(before, cells.cells, Cells::SIZE);
    for (uint32_t no = 1000; no < 500000; no += 997) {
        // The simulator takes a sketch that says nothing for one that has ended.
        Serial.print('.');
        for (int writes = 0; writes < 9; writes++) {
            memcpy(cells.cells, before, Cells::SIZE);
            cells.writes = writes;
            probe.dose(no);
            cells.writes = -1;
            if (ran) break;
            trials++;
            String after = probe.last(no);
            claimed += after != "ok none" && after != "ok begun";
        }
    }
    Serial.print(F("cut trials="));
    Serial.print(trials);
    Serial.print(F(" claimed="));
    Serial.println(claimed);
}

// What runs is remembered, what cannot be remembered does not run.
void worn(int first, int end) {
    long forgotten = 0, claimed = 0, refused = 0, outside = 0;
    for (int cell = first; cell < end; cell++) {
        Serial.print('.');
        new_board();
        uint32_t no = 1000;
        for (uint8_t turn = 0; turn < 30; turn++) {
            if (turn == 11) cells.worn = cell < 0 ? Cells::ALL : cell;
            bool is_ok = probe.dose(++no) == "ok";
            String after = probe.last(no);
            refused += !is_ok;
            forgotten += ran && after != "ok ok" && after != "ok begun";
            claimed += !ran && (is_ok || after == "ok ok" || after == "ok err");
        }
        for (int at = FieldpostOnce::BYTES; at < Cells::SIZE; at++) outside += cells.cells[at] != 0xFF;
    }
    Serial.print(F("worn refused="));
    Serial.print(refused);
    Serial.print(F(" forgotten="));
    Serial.print(forgotten);
    Serial.print(F(" claimed="));
    Serial.print(claimed);
    Serial.print(F(" outside="));
    Serial.println(outside);
}

void setup() {
    Serial.begin(115200);
    (void)of_the_board;
    cut();
    worn(0, FieldpostOnce::BYTES);
    worn(-1, 0);
    done();
}

void loop() {}
"#;

#[test]
fn nothing_is_claimed_that_never_ran_and_nothing_runs_that_would_be_forgotten() -> anyhow::Result<()>
{
    let dir = tempfile::tempdir()?;
    let sketch = dir.path().join("once.ino");
    std::fs::write(&sketch, SKETCH)?;
    let done = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/done.h");
    std::fs::copy(done, dir.path().join("done.h"))?;
    let printed = printed(tools(), &tools().build(&sketch, dir.path())?)?;
    let printed = String::from_utf8_lossy(&printed);
    println!("{printed}");
    let lines: Vec<&str> = printed.lines().map(|line| line.trim_start_matches('.')).collect();
    let [cut, one_worn, all_worn] = lines[..] else { panic!("three lines in {printed:?}") };
    assert!(cut.starts_with("cut trials=") && cut.ends_with(" claimed=0"), "{cut}");
    assert_eq!(one_worn, "worn refused=0 forgotten=0 claimed=0 outside=0");
    // All but the eleven before it was worn out.
    assert_eq!(all_worn, "worn refused=19 forgotten=0 claimed=0 outside=0");
    Ok(())
}
