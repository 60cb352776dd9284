// In the format of basic_readings; the values are made up.
#include "../done.h"

static void axes(const char *what, float x, float y, float z, const char *unit) {
    Serial.print(what);
    Serial.print(" X: ");
    Serial.print(x);
    Serial.print(", Y: ");
    Serial.print(y);
    Serial.print(", Z: ");
    Serial.print(z);
    Serial.println(unit);
}

static void show(float x, float y, float z, float celsius) {
    axes("Acceleration", x, y, z, " m/s^2");
    axes("Rotation", 0.01, -0.02, 0.0, " rad/s");
    Serial.print("Temperature: ");
    Serial.print(celsius);
    Serial.println(" degC");
    Serial.println("");
}

void setup() {
    Serial.begin(115200);
    Serial.println("Adafruit MPU6050 test!");
    Serial.println("MPU6050 Found!");
    Serial.println("Accelerometer range set to: +-8G");
    Serial.println("Gyro range set to: +- 500 deg/s");
    Serial.println("Filter bandwidth set to: 21 Hz");
    Serial.println("");
    show(0.38, -0.12, 9.71, 26.4);
    show(0.4, -0.11, 9.7, 26.41);
    done();
}

void loop() {}
