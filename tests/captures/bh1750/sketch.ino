// In the format of BH1750test; the values are made up.
#include "../done.h"

static void show(float lux) {
    Serial.print("Light: ");
    Serial.print(lux);
    Serial.println(" lx");
}

void setup() {
    Serial.begin(9600);
    Serial.println(F("BH1750 Test begin"));
    show(54.17);
    show(55);
    // What the library returns where the sensor does not answer.
    show(-2);
    done();
}

void loop() {}
