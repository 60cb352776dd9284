// In the format of adafruit_scd30_test; the values are made up.
#include "../done.h"

static void show(float celsius, float humidity, float ppm) {
    Serial.println("Data available!");
    Serial.print("Temperature: ");
    Serial.print(celsius);
    Serial.println(" degrees C");
    Serial.print("Relative Humidity: ");
    Serial.print(humidity);
    Serial.println(" %");
    Serial.print("eCO2: ");
    Serial.print(ppm, 3);
    Serial.println(" ppm");
    Serial.println("");
}

void setup() {
    Serial.begin(115200);
    Serial.println("Adafruit SCD30 test!");
    Serial.println("SCD30 Found!");
    Serial.print("Measurement Interval: ");
    Serial.print(2);
    Serial.println(" seconds");
    show(23.41, 38.72, 812.125);
    show(23.43, 38.7, 809.5);
    done();
}

void loop() {}
