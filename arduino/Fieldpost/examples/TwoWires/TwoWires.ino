// The gateway on pins 10 and 11, the serial monitor on USB: SoftwareSerial is a Stream like any other.
//
//     pin 11 (TX) -> RX of a USB adapter at the gateway      a Pi's own pins take 3.3 V only
//     pin 10 (RX) <- TX
//     GND         -- GND
//
// In gateway.toml:
//     [[port]]
//     name = "attic"
//     path = "/dev/serial/by-id/..."
//     baud = 9600
#include <Fieldpost.h>
#include <SoftwareSerial.h>

SoftwareSerial wires(10, 11);
Fieldpost gateway(wires);
unsigned long next = 0;

void setup() {
    Serial.begin(115200);
    wires.begin(9600);
    gateway.boot(F("fw=1.0.0"));
}

void loop() {
    if ((long)(millis() - next) < 0) return;
    next += 1000;
    int light = analogRead(A0);
    Serial.println(light);
    gateway.print(F("light="));
    gateway.println(light);
}
