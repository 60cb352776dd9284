// In the format of colorview; the values are made up.
#include "../done.h"

static void show(unsigned clear, unsigned red, unsigned green, unsigned blue, byte r, byte g, byte b) {
    Serial.print("C:\t");
    Serial.print(clear);
    Serial.print("\tR:\t");
    Serial.print(red);
    Serial.print("\tG:\t");
    Serial.print(green);
    Serial.print("\tB:\t");
    Serial.print(blue);
    Serial.print("\t");
    Serial.print((int)r, HEX);
    Serial.print((int)g, HEX);
    Serial.print((int)b, HEX);
    Serial.println();
}

void setup() {
    Serial.begin(9600);
    Serial.println("Color View Test!");
    Serial.println("Found sensor");
    show(1234, 455, 410, 333, 0x5E, 0x67, 0x40);
    show(1190, 441, 402, 325, 0x5D, 0x09, 0x12);
    done();
}

void loop() {}
