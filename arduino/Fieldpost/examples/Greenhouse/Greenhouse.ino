// Two readings ten times a second, and a lamp that a command switches.
//
// In gateway.toml:
//     [[port]]
//     name = "greenhouse"
//     path = "/dev/serial/by-id/..."
//
// A command as the gateway sends it (to try it in the serial monitor, with "New Line"):
//     >1 led on=1*4242
#include <Fieldpost.h>

const unsigned long EVERY_MS = 100;

Fieldpost gateway(Serial);
unsigned long next = 0;

void command(const char *name, const char *args) {
    if (strcmp(name, "led") == 0) {
        bool on = Fieldpost::number(args, "on", 0);
        digitalWrite(LED_BUILTIN, on);
        gateway.ok();
        gateway.print(F(" on="));
        gateway.print(on);
    } else {
        gateway.err(F("only led is known"));
    }
}

void setup() {
    Serial.begin(115200);
    pinMode(LED_BUILTIN, OUTPUT);
    gateway.boot(F("fw=1.0.0"));
}

void loop() {
    gateway.poll(command);
    if ((long)(millis() - next) < 0) return;
    next += EVERY_MS;
    gateway.print(F("fruiting temp="));
    gateway.print(analogRead(A0) * 0.1 - 20.0, 1);
    gateway.print(F(" humidity="));
    gateway.println(analogRead(A1) / 10);
}
