// In the format of bmp280test; the values are made up.
#include "../done.h"

static void show(float celsius, float pascal, float metres) {
    Serial.print(F("Temperature = "));
    Serial.print(celsius);
    Serial.println(" *C");
    Serial.print(F("Pressure = "));
    Serial.print(pascal);
    Serial.println(" Pa");
    Serial.print(F("Approx altitude = "));
    Serial.print(metres);
    Serial.println(" m");
    Serial.println();
}

void setup() {
    Serial.begin(9600);
    Serial.println(F("BMP280 test"));
    show(24.61, 100342.19, 82.02);
    show(24.62, 100343.5, 81.91);
    done();
}

void loop() {}
