// In the format of SDS011_example; the values are made up.
#include "../done.h"

static void show(float p25, float p10) {
    Serial.println("P2.5: " + String(p25));
    Serial.println("P10:  " + String(p10));
}

void setup() {
    Serial.begin(9600);
    show(4.3, 11.8);
    show(4.4, 12.1);
    done();
}

void loop() {}
