//! The brokers that a test runs on, and one test under two names.

/// Who carries the messages of a [`Rig`](crate::rig::Rig).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// The embedded broker, in the process of the test: TLS and certificates, no access rules.
    Embedded,
    /// Debian's mosquitto with the shipped configuration and access rules, see
    /// [`mosquitto`](crate::mosquitto).
    Mosquitto,
}

/// Makes two tests of each function that takes a [`Broker`]: `on_embedded::name` and
/// `on_mosquitto::name`.
#[macro_export]
macro_rules! on_each_broker {
    ($($name:ident),+ $(,)?) => {
        mod on_embedded {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                super::$name($crate::broker::Broker::Embedded)
            })+
        }
        mod on_mosquitto {
            $(#[test]
            fn $name() -> anyhow::Result<()> {
                super::$name($crate::broker::Broker::Mosquitto)
            })+
        }
    };
}
