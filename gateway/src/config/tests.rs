use super::*;

fn no_env() -> impl Iterator<Item = (String, String)> {
    std::iter::empty()
}

#[test]
fn the_template_is_a_valid_configuration() {
    let config = Config::parse(TEMPLATE, no_env()).unwrap();
    assert!(config.broker.is_none());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}
