//! Configuration files. A person writes them, but a torn or swapped file must not end in a panic.

use std::collections::BTreeMap;

use fieldpost_bridge::config::Config as BridgeConfig;
use fieldpost_gateway::config::Config as GatewayConfig;

pub(crate) fn gateway(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match GatewayConfig::parse(text, std::iter::empty()) {
        Ok(config) => {
            let shown = config.redacted().to_string();
            let again = GatewayConfig::parse(&shown, std::iter::empty());
            assert!(again.is_ok() || shown.contains("hidden"), "{again:?} in\n{shown}");
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

pub(crate) fn bridge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = BridgeConfig::parse(text, &BTreeMap::new()) {
        assert!(!error.to_string().is_empty());
    }
}
