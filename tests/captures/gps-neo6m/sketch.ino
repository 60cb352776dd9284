// NMEA 0183, as a u-blox NEO-6M sends it: first without a fix, then with one. The places are made up.
#include "../done.h"

static void sentence(const char *text) {
    byte sum = 0;
    for (const char *at = text; *at; at++) sum ^= *at;
    Serial.print('$');
    Serial.print(text);
    Serial.print('*');
    if (sum < 16) Serial.print('0');
    Serial.println(sum, HEX);
}

void setup() {
    Serial.begin(9600);
    sentence("GPRMC,,V,,,,,,,,,,N");
    sentence("GPVTG,,,,,,,,,N");
    sentence("GPGGA,,,,,,0,00,99.99,,,,,,");
    sentence("GPGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99");
    sentence("GPGSV,1,1,00");
    sentence("GPGLL,,,,,,V,N");
    sentence("GPRMC,071003.00,A,5230.98765,N,01322.54321,E,0.412,,211126,,,A");
    sentence("GPVTG,,T,,M,0.412,N,0.763,K,A");
    sentence("GPGGA,071003.00,5230.98765,N,01322.54321,E,1,07,1.21,38.4,M,44.5,M,,");
    sentence("GPGSA,A,3,02,05,12,15,24,25,29,,,,,,2.14,1.21,1.77");
    sentence("GPGSV,2,1,07,02,31,118,27,05,62,206,35,12,44,071,31,15,12,184,22");
    sentence("GPGSV,2,2,07,24,51,287,33,25,27,058,29,29,77,301,36");
    sentence("GPGLL,5230.98765,N,01322.54321,E,071003.00,A,A");
    // A digit fell over on the way: this one may not become a place.
    Serial.println("$GPGGA,071004.00,5231.98765,N,01322.54321,E,1,07,1.21,38.4,M,44.5,M,,*5A");
    done();
}

void loop() {}
