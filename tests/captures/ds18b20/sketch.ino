// In the format of Simple; the values are made up.
#include "../done.h"

static void show(float celsius) {
    Serial.print("Requesting temperatures...");
    Serial.println("DONE");
    if (celsius != -127) {
        Serial.print("Temperature for the device 1 (index 0) is: ");
        Serial.println(celsius);
    } else {
        Serial.println("Error: Could not read temperature data");
    }
}

void setup() {
    Serial.begin(9600);
    Serial.println("Dallas Temperature IC Control Library Demo");
    show(21.5);
    show(21.56);
    show(-127);
    show(-0.06);
    done();
}

void loop() {}
