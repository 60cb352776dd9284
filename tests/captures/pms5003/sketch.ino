// In the format of PM25_test; the values are made up.
#include "../done.h"

static const char RULE[] PROGMEM = "---------------------------------------";

static void rule() {
    Serial.println((const __FlashStringHelper *)RULE);
}

static void concentrations(int pm10, int pm25, int pm100) {
    Serial.print(F("PM 1.0: "));
    Serial.print(pm10);
    Serial.print(F("\t\tPM 2.5: "));
    Serial.print(pm25);
    Serial.print(F("\t\tPM 10: "));
    Serial.println(pm100);
}

static void particles(const char *size, int count) {
    Serial.print(F("Particles > "));
    Serial.print(size);
    Serial.print(F(" / 0.1L air:"));
    Serial.println(count);
}

void setup() {
    Serial.begin(115200);
    Serial.println("Adafruit PMSA003I Air Quality Sensor");
    Serial.println("PM25 found!");
    Serial.println("AQI reading success");
    rule();
    Serial.println(F("Concentration Units (standard)"));
    concentrations(5, 7, 8);
    rule();
    Serial.println(F("Concentration Units (environmental)"));
    concentrations(4, 6, 8);
    rule();
    particles("0.3um", 1146);
    particles("0.5um", 319);
    particles("1.0um", 46);
    particles("2.5um", 4);
    particles("5.0um", 2);
    particles("10 um", 1);
    rule();
    Serial.println(F("AQI"));
    Serial.print(F("PM2.5 AQI US: "));
    Serial.print(29);
    Serial.print(F("\tPM10  AQI US: "));
    Serial.println(7);
    rule();
    Serial.println();
    Serial.println("Could not read from AQI");
    done();
}

void loop() {}
