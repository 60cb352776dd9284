// In the format of bme280test; the values are made up. The last ones are of a sensor that lost its wire.
#include "../done.h"

static void show(float celsius, float hectopascal, float metres, float humidity) {
    Serial.print("Temperature = ");
    Serial.print(celsius);
    Serial.println(" *C");
    Serial.print("Pressure = ");
    Serial.print(hectopascal);
    Serial.println(" hPa");
    Serial.print("Approx. Altitude = ");
    Serial.print(metres);
    Serial.println(" m");
    Serial.print("Humidity = ");
    Serial.print(humidity);
    Serial.println(" %");
    Serial.println();
}

void setup() {
    Serial.begin(9600);
    Serial.println(F("BME280 test"));
    Serial.println("-- Default Test --");
    Serial.println();
    show(21.87, 1003.42, 82.19, 41.29);
    show(21.88, 1003.44, 82.02, 41.31);
    show(NAN, NAN, NAN, NAN);
    done();
}

void loop() {}
