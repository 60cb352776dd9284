// In the format of HX711_full_example; the values are made up.
#include "../done.h"

static void setting_up(long raw, float units) {
    Serial.print("read: \t\t");
    Serial.println(raw);
    Serial.print("read average: \t\t");
    Serial.println(raw);
    Serial.print("get value: \t\t");
    Serial.println((double)raw);
    Serial.print("get units: \t\t");
    Serial.println(units, 1);
}

static void show(float one, float average) {
    Serial.print("one reading:\t");
    Serial.print(one, 1);
    Serial.print("\t| average:\t");
    Serial.println(average, 1);
}

void setup() {
    Serial.begin(38400);
    Serial.println("HX711 Demo");
    Serial.println("Initializing the scale");
    Serial.println("Before setting up the scale:");
    setting_up(84231, 84229.4);
    Serial.println("After setting up the scale:");
    setting_up(84240, 0.0);
    Serial.println("Readings:");
    show(0.0, -0.1);
    show(251.3, 251.2);
    done();
}

void loop() {}
