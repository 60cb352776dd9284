// In the format of DHTtester; the values are made up.
#include "../done.h"

static void show(float humidity, float celsius, float fahrenheit, float index_c, float index_f) {
    Serial.print(F("Humidity: "));
    Serial.print(humidity);
    Serial.print(F("%  Temperature: "));
    Serial.print(celsius);
    Serial.print(F("°C "));
    Serial.print(fahrenheit);
    Serial.print(F("°F  Heat index: "));
    Serial.print(index_c);
    Serial.print(F("°C "));
    Serial.print(index_f);
    Serial.println(F("°F"));
}

void setup() {
    Serial.begin(9600);
    Serial.println(F("DHTxx test!"));
    show(45.0, 23.1, 73.58, 22.66, 72.78);
    show(45.1, 23.1, 73.58, 22.66, 72.79);
    Serial.println(F("Failed to read from DHT sensor!"));
    show(99.9, -3.4, 25.88, -4.98, 23.03);
    done();
}

void loop() {}
