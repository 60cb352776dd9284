// A Fieldpost that remembers its last commands in the EEPROM of an AVR board.
//
//     FieldpostOnce gateway(Serial);          // instead of Fieldpost gateway(Serial);
//
// Each command is written down before it is done and after it. So one that comes twice is done once, also
// when the board was reset in between, and the gateway, which asks after a crash, learns what became of it.
#pragma once

#include <EEPROM.h>

#include "Fieldpost.h"

class FieldpostOnce : public Fieldpost {
public:
    // A cell of the EEPROM bears 100,000 writes: with 8 slots in turn 400,000 commands or more.
    static const uint8_t SLOTS = 8;
    static const uint8_t BYTES = SLOTS * 7;

    // From this address on BYTES of the EEPROM are used.
    explicit FieldpostOnce(Stream &stream, int address = 0) : Fieldpost(stream), address(address) {}

protected:
    void perform(Handler handler, const char *name, const char *args) override {
        // >71839 last no=42: what became of an earlier one.
        bool asked = strcmp(name, "last") == 0;
        uint8_t state = stateOf(asked ? number(args, "no", 0) : id);
        if (!asked && state == UNKNOWN) {
            uint8_t slot = begin();
            // What nobody remembers might be done twice.
            if (slot == SLOTS) return err(F("the EEPROM is worn out"));
            handler(name, args);
            if (answered == NONE) err(F("not known"));
            EEPROM.update(at(slot) + 5, answered == OK ? DONE : FAILED);
        } else if (asked || state == DONE) {
            ok();
            print(' ');
            tell(state);
        } else {
            err(F("came before: "));
            tell(state);
        }
    }

private:
    enum State : uint8_t { UNKNOWN, BEGUN, DONE, FAILED };

    // A slot: id (4), turn, state, check of id and turn.
    int address;

    void tell(uint8_t state) {
        if (state == UNKNOWN) print(F("none"));
        if (state == BEGUN) print(F("begun"));
        if (state == DONE) print(F("ok"));
        if (state == FAILED) print(F("err"));
    }

    uint8_t stateOf(uint32_t id) {
        uint8_t slot = find(id);
        if (slot == SLOTS) return UNKNOWN;
        uint8_t state = EEPROM.read(at(slot) + 5);
        // Whatever else stands there was cut off while it was written.
        return state == DONE || state == FAILED ? state : (uint8_t)BEGUN;
    }

    // Writes down that it begins; returns where, or SLOTS if no slot keeps it.
    uint8_t begin() {
        uint8_t newest = 0, turn = 0;
        bool any = false;
        for (uint8_t slot = 0; slot < SLOTS; slot++) {
            uint8_t its = EEPROM.read(at(slot) + 4);
            // Turns go round at 256; those of the slots are next to one another.
            if (!valid(slot) || (any && (int8_t)(its - turn) < 0)) continue;
            newest = slot;
            turn = its;
            any = true;
        }
        turn++;
        for (uint8_t further = 1; further <= SLOTS; further++) {
            uint8_t slot = (newest + further) % SLOTS;
            // Not valid until it is whole, and should it look so before, by chance, then begun.
            EEPROM.update(at(slot) + 6, ~check(slot));
            EEPROM.update(at(slot) + 5, BEGUN);
            for (uint8_t byte = 0; byte < 4; byte++) EEPROM.update(at(slot) + byte, id >> (8 * byte));
            EEPROM.update(at(slot) + 4, turn);
            bool kept = idOf(slot) == id && EEPROM.read(at(slot) + 4) == turn && EEPROM.read(at(slot) + 5) == BEGUN;
            EEPROM.update(at(slot) + 6, kept ? check(slot) : ~check(slot));
            if (kept && valid(slot)) return slot;
        }
        return SLOTS;
    }

    int at(uint8_t slot) { return address + 7 * slot; }

    uint8_t check(uint8_t slot) {
        uint8_t sum = 0x5A;
        for (uint8_t byte = 0; byte < 5; byte++) sum = (sum << 1 | sum >> 7) ^ EEPROM.read(at(slot) + byte);
        return sum;
    }

    bool valid(uint8_t slot) { return EEPROM.read(at(slot) + 6) == check(slot); }

    uint32_t idOf(uint8_t slot) {
        uint32_t its = 0;
        for (uint8_t byte = 0; byte < 4; byte++) its |= (uint32_t)EEPROM.read(at(slot) + byte) << (8 * byte);
        return its;
    }

    uint8_t find(uint32_t id) {
        for (uint8_t slot = 0; slot < SLOTS; slot++) {
            if (idOf(slot) == id && valid(slot)) return slot;
        }
        return SLOTS;
    }
};
