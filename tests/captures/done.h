// The end of a sketch that shows its format and stops.
#pragma once

#include <avr/sleep.h>

// All is sent; with interrupts off nothing wakes it, and the simulator ends.
inline void done() {
    Serial.flush();
    cli();
    sleep_enable();
    sleep_cpu();
}
