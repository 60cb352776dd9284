// In the format of the plotter's tutorial; the values are made up.
#include "../done.h"

void setup() {
    Serial.begin(9600);
    for (int value = 340; value < 343; value++) {
        Serial.print("Variable_1:");
        Serial.print(value);
        Serial.print(",");
        Serial.print("Variable_2:");
        Serial.println(500);
    }
    done();
}

void loop() {}
