// A board's end of the line protocol of a Fieldpost gateway.
//
//     fruiting temp=24.5 humidity=85 #17*C247      what you print; println() adds counter and checksum
//     >42 led on=1*E820                            a command; poll() hands it to you
//     @42 ok on=1 #18*14A1                         your answer
#pragma once

#include <Arduino.h>

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

    // A byte of the present line: print() and println() come here.
    size_t write(uint8_t byte) override;
    using Print::write;

    // Reads what has come, and runs commands. Often, and never in the middle of a line.
    void poll(Handler handler);

    // In a handler: it is done. What you print then goes with the answer, such as " on=1".
    void ok();

    // In a handler: it is not done, and why.
    template <class Text> void err(Text why) {
        answer(ERR, F(" err "));
        print(why);
    }

    // In a handler: the value of `on` in "on=1 pin=7", or `otherwise`.
    static long number(const char *args, const char *name, long otherwise);

protected:
    // What the handler has answered, and to which number.
    enum Answer : uint8_t { NONE, OK, ERR };
    Answer answered = NONE;
    uint32_t id = 0;

    // Does a command. FieldpostOnce does it once.
    virtual void perform(Handler handler, const char *name, const char *args) { handler(name, args); }

private:
    Stream &stream;
    uint32_t lines = 0;
    uint16_t crc = 0xFFFF;
    bool empty = true;
    uint8_t length = 0;
    char line[LINE_BYTES];

    void begin();
    void end();
    void run(Handler handler);
    void answer(Answer is, const __FlashStringHelper *words);
};
