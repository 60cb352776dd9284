#include "Fieldpost.h"

// CRC-16/CCITT-FALSE, one byte more.
static uint16_t crc16(uint16_t crc, uint8_t byte) {
    crc ^= (uint16_t)byte << 8;
    for (uint8_t bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
    return crc;
}

static char digit(uint16_t crc, uint8_t place) {
    uint8_t nibble = crc >> (12 - 4 * place) & 0xF;
    return nibble < 10 ? '0' + nibble : 'A' + nibble - 10;
}

size_t Fieldpost::write(uint8_t byte) {
    if (byte == '\n') end();
    if (byte == '\n' || byte == '\r') return 1;
    empty = false;
    crc = crc16(crc, byte);
    return stream.write(byte);
}

void Fieldpost::end() {
    if (empty) return;
    print(F(" #"));
    print(lines++);
    stream.write('*');
    for (uint8_t place = 0; place < 4; place++) stream.write(digit(crc, place));
    stream.write('\n');
    crc = 0xFFFF;
    empty = true;
}

void Fieldpost::begin() {
    // Ends the line that the reset has cut off.
    stream.write('\n');
    crc = 0xFFFF;
    empty = true;
    lines = 0;
}

void Fieldpost::poll(Handler handler) {
    while (stream.available()) {
        char byte = stream.read();
        if (byte == '\n' || byte == '\r') {
            // One byte more than fits: the line was too long.
            if (length > 6 && length <= LINE_BYTES) run(handler);
            length = 0;
        } else if (length < LINE_BYTES) {
            line[length++] = byte;
        } else {
            length = LINE_BYTES + 1;
        }
    }
}

void Fieldpost::run(Handler handler) {
    uint8_t star = length - 5;
    uint16_t sum = 0xFFFF;
    for (uint8_t at = 0; at < star; at++) sum = crc16(sum, line[at]);
    bool whole = line[0] == '>' && line[star] == '*';
    for (uint8_t place = 0; place < 4; place++) whole &= line[star + 1 + place] == digit(sum, place);
    // Nobody knows the number of a damaged command, so it gets no answer.
    if (!whole) return;
    line[star] = 0;
    char *name;
    id = strtoul(line + 1, &name, 10);
    if (name == line + 1) return;
    while (*name == ' ') name++;
    char *args = name + strcspn(name, " ");
    if (*args) *args++ = 0;
    answered = NONE;
    perform(handler, name, args);
    if (answered == NONE) err(F("not known"));
    end();
}

void Fieldpost::answer(Answer is, const __FlashStringHelper *words) {
    answered = is;
    print('@');
    print(id);
    print(words);
}

void Fieldpost::ok() {
    answer(OK, F(" ok"));
}

long Fieldpost::number(const char *args, const char *name, long otherwise) {
    size_t length = strlen(name);
    while (*args) {
        if (strncmp(args, name, length) == 0 && args[length] == '=') return atol(args + length + 1);
        // A text in quotes may hold blanks, and behind them what looks like a value.
        for (bool quoted = false; *args && (quoted || *args != ' '); args++) {
            if (*args == '"') quoted = !quoted;
            if (*args == '\\' && args[1]) args++;
        }
        args += strspn(args, " ");
    }
    return otherwise;
}
