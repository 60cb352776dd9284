//! The edge process: serial ports to a durable outbox to MQTT.
