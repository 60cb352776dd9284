// In the format of AnalogReadSerial; the values are made up.
#include "../done.h"

void setup() {
    Serial.begin(9600);
    for (int value = 510; value < 515; value++) Serial.println(value);
    done();
}

void loop() {}
