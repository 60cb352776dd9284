// In the format of the project; the values are made up.
#include "../done.h"

static void show(int var1, int var2, int var3) {
    Serial.print(var1);
    Serial.print(",");
    Serial.print(var2);
    Serial.print(",");
    Serial.println(var3);
}

void setup() {
    Serial.begin(115200);
    Serial.println("var1:,var2:,var3:");
    show(512, 300, 7);
    show(513, 301, 8);
    done();
}

void loop() {}
