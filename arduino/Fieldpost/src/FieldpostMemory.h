// Remembers the last commands in the EEPROM of an AVR board.
//
//     FieldpostMemory memory;                  // in setup(): gateway.remember(memory);
//
// Each command is written down before it is done and after it. So one that comes twice is done once, also
// when the board was reset in between, and the gateway, which asks after a crash, learns what became of it.
#pragma once

#include <EEPROM.h>

#include "Fieldpost.h"

class FieldpostMemory : public FieldpostJournal {
public:
    // A cell of the EEPROM bears 100,000 writes: with 8 slots in turn 400,000 commands or more.
    static const uint8_t SLOTS = 8;
    static const uint8_t BYTES = SLOTS * 7;

    // From this address on BYTES are used.
    explicit FieldpostMemory(int address = 0) : address(address) {}

    State state(uint32_t id) override {
        uint8_t slot = find(id);
        if (slot == SLOTS) return NONE;
        uint8_t state = EEPROM.read(at(slot) + 5);
        // Whatever else stands there was cut off while it was written.
        return state == OK ? OK : state == ERR ? ERR : BEGUN;
    }

    void begin(uint32_t id) override {
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
        uint8_t slot = (newest + 1) % SLOTS;
        turn++;
        // Not valid until it is whole.
        EEPROM.update(at(slot) + 6, ~check(slot));
        for (uint8_t byte = 0; byte < 4; byte++) EEPROM.update(at(slot) + byte, id >> (8 * byte));
        EEPROM.update(at(slot) + 4, turn);
        EEPROM.update(at(slot) + 5, BEGUN);
        EEPROM.update(at(slot) + 6, check(slot));
    }

    void end(uint32_t id, State outcome) override {
        uint8_t slot = find(id);
        if (slot < SLOTS) EEPROM.update(at(slot) + 5, outcome);
    }

private:
    // A slot: id (4), turn, state, check of id and turn.
    int address;

    int at(uint8_t slot) { return address + 7 * slot; }

    uint8_t check(uint8_t slot) {
        uint8_t sum = 0x5A;
        for (uint8_t byte = 0; byte < 5; byte++) sum = (sum << 1 | sum >> 7) ^ EEPROM.read(at(slot) + byte);
        return sum;
    }

    bool valid(uint8_t slot) { return EEPROM.read(at(slot) + 6) == check(slot); }

    uint8_t find(uint32_t id) {
        for (uint8_t slot = 0; slot < SLOTS; slot++) {
            uint32_t its = 0;
            for (uint8_t byte = 0; byte < 4; byte++) its |= (uint32_t)EEPROM.read(at(slot) + byte) << (8 * byte);
            if (its == id && valid(slot)) return slot;
        }
        return SLOTS;
    }
};
