// What a LoRa receiver prints for a tag of a mushroom farm: batch, LF tag, UHF tag. Digits are names here.
#include "../done.h"

void setup() {
    Serial.begin(115200);
    Serial.println("hxb:BATCH001:LF123:UHF456");
    Serial.println("hxb:0042:00123:1E5");
    done();
}

void loop() {}
