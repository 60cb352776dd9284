// A board's end of the line protocol of a Fieldpost gateway.
//
//     fruiting temp=24.5 humidity=85 #17*C247      what you print; println() adds counter and checksum
//     >42 led on=1*E820                            a command; poll() hands it to you
//     @42 ok on=1 #18*14A1                         your answer
#pragma once

#include <Arduino.h>

// What a board remembers of its last commands over resets: FieldpostMemory.h keeps it in the EEPROM.
class FieldpostJournal {
public:
    enum State : uint8_t { NONE, BEGUN, OK, ERR };

    virtual State state(uint32_t id) = 0;
    // Before a command is done, and after it.
    virtual void begin(uint32_t id) = 0;
    virtual void end(uint32_t id, State outcome) = 0;
};

class Fieldpost : public Print {
public:
    // Does what a command says, and calls ok() or err(). A command that gets neither is refused.
    typedef void (*Handler)(const char *name, const char *args);

    // A command's line, without its end. A longer one gets no answer.
    static const uint8_t LINE_BYTES = 64;

    // Any Stream: Serial, Serial1, a SoftwareSerial. It is begun by the sketch.
    explicit Fieldpost(Stream &stream) : stream(stream) {}

    // Tells that the board has started, and with what: boot(F("fw=1.2.0")). Once, in setup().
    template <class Text> void boot(Text about) {
        begin();
        print(F("!boot "));
        println(about);
    }

    // From now on a command that comes twice is done once, and the gateway may ask what became of one.
    void remember(FieldpostJournal &in) { journal = &in; }

    // A byte of the present line: print() and println() come here.
    size_t write(uint8_t byte) override;
    using Print::write;

    // Reads what has come, and runs commands. Often, and never in the middle of a line.
    void poll(Handler handler);

    // In a handler: it is done. What you print then goes with the answer, such as " on=1".
    void ok();

    // In a handler: it is not done, and why.
    template <class Text> void err(Text why) {
        answer(FieldpostJournal::ERR, F(" err "));
        print(why);
    }

    // In a handler: the value of `on` in "on=1 pin=7", or `otherwise`.
    static long number(const char *args, const char *name, long otherwise);

private:
    Stream &stream;
    FieldpostJournal *journal = nullptr;
    uint32_t lines = 0;
    uint32_t id = 0;
    uint16_t crc = 0xFFFF;
    bool empty = true;
    FieldpostJournal::State outcome = FieldpostJournal::NONE;
    uint8_t length = 0;
    char line[LINE_BYTES];

    void begin();
    void end();
    void run(Handler handler);
    void perform(Handler handler, const char *name, const char *args);
    void recall(FieldpostJournal::State state);
    void answer(FieldpostJournal::State outcome, const __FlashStringHelper *words);
};
