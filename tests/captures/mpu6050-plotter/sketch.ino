// In the format of plotter; the values are made up.
#include "../done.h"

static void show(float x, float y, float z) {
    Serial.print(x);
    Serial.print(",");
    Serial.print(y);
    Serial.print(",");
    Serial.print(z);
    Serial.print(", ");
    Serial.print(0.01);
    Serial.print(",");
    Serial.print(-0.02);
    Serial.print(",");
    Serial.print(0.0);
    Serial.println("");
}

void setup() {
    Serial.begin(115200);
    Serial.println("");
    show(0.38, -0.12, 9.71);
    show(0.4, -0.11, 9.7);
    done();
}

void loop() {}
