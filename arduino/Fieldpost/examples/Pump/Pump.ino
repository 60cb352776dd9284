// A pump that must not dose twice: the board remembers each command over resets, and tells the gateway
// after a crash what became of it.
//
// In gateway.toml:
//     [[port]]
//     name = "pump"
//     path = "/dev/serial/by-id/..."
//
//     [[command]]
//     name = "dose"
//     port = "pump"
//     timeout = "15s"
//     [command.args.ms]
//     type = "int"
//     min = 1
//     max = 10000
#include <FieldpostOnce.h>

const int PUMP = LED_BUILTIN;
const unsigned long EVERY_MS = 200;
// In the EEPROM, behind what FieldpostOnce uses: how often it has dosed.
const int DOSES = FieldpostOnce::BYTES;

FieldpostOnce gateway(Serial);
unsigned long next = 0;

uint16_t doses() {
    uint16_t count;
    EEPROM.get(DOSES, count);
    // Of a new board.
    return count == 0xFFFF ? 0 : count;
}

void command(const char *name, const char *args) {
    if (strcmp(name, "dose") != 0) {
        gateway.err(F("only dose is known"));
        return;
    }
    EEPROM.put(DOSES, (uint16_t)(doses() + 1));
    digitalWrite(PUMP, HIGH);
    delay(Fieldpost::number(args, "ms", 0));
    digitalWrite(PUMP, LOW);
    gateway.ok();
    gateway.print(F(" doses="));
    gateway.print(doses());
}

void setup() {
    Serial.begin(115200);
    pinMode(PUMP, OUTPUT);
    gateway.boot(F("fw=1.0.0"));
}

void loop() {
    gateway.poll(command);
    if ((long)(millis() - next) < 0) return;
    next = millis() + EVERY_MS;
    gateway.print(F("doses="));
    gateway.println(doses());
}
