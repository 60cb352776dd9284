//! Which device class goes with a unit, and which state class with that.
//!
//! From `DEVICE_CLASS_UNITS` and `DEVICE_CLASS_STATE_CLASSES` in `homeassistant/components/sensor/const.py`
//! of Home Assistant 2024.3.3 (March 2024) and 2026.2.3 (February 2026): every pair below is valid in both.
//! A unit of several classes has one only where the metric's name tells which.

/// What Home Assistant is told of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    /// `device_class`.
    pub(super) device: &'static str,
    /// `state_class`.
    pub(super) state: &'static str,
}

pub(super) const MEASUREMENT: &str = "measurement";
/// What a meter counts up.
const TOTAL: &str = "total_increasing";

/// Units, the words one of which the metric's name has to have (none: any name will do), classes.
const CLASSES: &[(&[&str], &[&str], &str, &str)] = &[
    (&["°C", "°F", "K"], &[], "temperature", MEASUREMENT),
    (&["Pa", "hPa", "kPa", "bar", "mbar", "mmHg", "inHg", "psi"], &[], "pressure", MEASUREMENT),
    (&["V", "mV"], &[], "voltage", MEASUREMENT),
    (&["A", "mA"], &[], "current", MEASUREMENT),
    (&["W", "kW"], &[], "power", MEASUREMENT),
    (&["Wh", "kWh", "MWh"], &[], "energy", TOTAL),
    (&["VA"], &[], "apparent_power", MEASUREMENT),
    (&["var"], &[], "reactive_power", MEASUREMENT),
    (&["Hz", "kHz", "MHz", "GHz"], &[], "frequency", MEASUREMENT),
    (&["lx"], &[], "illuminance", MEASUREMENT),
    (&["W/m²"], &[], "irradiance", MEASUREMENT),
    (&["mm", "cm", "m", "km"], &[], "distance", MEASUREMENT),
    (&["g", "kg", "mg", "oz", "lb"], &[], "weight", MEASUREMENT),
    (&["m/s", "km/h", "mph"], &[], "speed", MEASUREMENT),
    (&["mm/h"], &[], "precipitation_intensity", MEASUREMENT),
    (&["m³/h", "L/min"], &[], "volume_flow_rate", MEASUREMENT),
    (&["ms", "s", "min", "h", "d"], &[], "duration", MEASUREMENT),
    (&["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"], &[], "data_size", MEASUREMENT),
    (&["B/s", "kB/s", "bit/s", "kbit/s", "Mbit/s"], &[], "data_rate", MEASUREMENT),
    (&["dBm"], &[], "signal_strength", MEASUREMENT),
    (&["%"], &["humidity", "humi", "hum", "rh"], "humidity", MEASUREMENT),
    (&["%"], &["battery", "batt", "soc"], "battery", MEASUREMENT),
    (&["%"], &["moisture", "soil"], "moisture", MEASUREMENT),
    (&["ppm"], &["co2", "eco2"], "carbon_dioxide", MEASUREMENT),
    (&["ppm"], &["co"], "carbon_monoxide", MEASUREMENT),
    (&["ppm", "ppb"], &["voc", "tvoc"], "volatile_organic_compounds_parts", MEASUREMENT),
    (&["µg/m³"], &["voc", "tvoc"], "volatile_organic_compounds", MEASUREMENT),
    (&["µg/m³"], &["pm1"], "pm1", MEASUREMENT),
    (&["µg/m³"], &["pm25", "pm2"], "pm25", MEASUREMENT),
    (&["µg/m³"], &["pm10"], "pm10", MEASUREMENT),
    (&["µg/m³"], &["no2"], "nitrogen_dioxide", MEASUREMENT),
    (&["µg/m³"], &["o3", "ozone"], "ozone", MEASUREMENT),
    (&["µg/m³"], &["so2"], "sulphur_dioxide", MEASUREMENT),
];

/// The unit as Home Assistant writes it: of the two signs for micro the older one, which the newer
/// versions take for theirs.
pub(super) fn written(unit: &str) -> String {
    unit.replace('\u{3bc}', "\u{b5}")
}

/// The class of a metric with this unit, as [`written`] gives it.
pub(super) fn class(unit: &str, metric: &str) -> Option<Class> {
    let name = metric.to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
    let joined = words.concat();
    let says = |word: &&str| words.contains(word) || joined == *word;
    let fits = |(units, names, ..): &&(&[&str], &[&str], &str, &str)| {
        units.contains(&unit) && (names.is_empty() || names.iter().any(says))
    };
    CLASSES.iter().find(fits).map(|&(_, _, device, state)| Class { device, state })
}
