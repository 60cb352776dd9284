//! A broker as somebody else offers it: a password, a public CA, one user for all who may only use
//! `devices/#`. Here it is mosquitto with `config/mosquitto-hosted.conf`.

use std::net::SocketAddr;

use fieldpost_demo::world::External;
use fieldpost_mqtt::{Ca, Login, Options, Password, Tls};
use fieldpost_tests::client::Client;
use fieldpost_tests::documented::{self, Line};
use fieldpost_tests::mosquitto::Mosquitto;
use fieldpost_tests::rig::Rig;

use super::path::Path;
use crate::settings;

const TITLE: &str = "HiveMQ Cloud";
const PASSWORD: &str = "a long password";

/// A world with the settings of docs/brokers.md, and the broker for it.
struct Hosted {
    mosquitto: Mosquitto,
    rig: Rig,
    user: String,
    prefix: String,
}

impl Hosted {
    /// Without the prefix that the page gives, for what happens then.
    fn start(with_prefix: bool) -> anyhow::Result<Hosted> {
        let dir = tempfile::tempdir()?;
        let password = dir.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n"))?;
        let documented = |file: &str| -> anyhow::Result<Vec<Line>> {
            let mut lines = documented::settings(TITLE, file)?;
            documented::set(&mut lines, "password_file", &password.display().to_string())?;
            lines.retain(|(_, line)| with_prefix || !line.starts_with("topic_prefix"));
            Ok(lines)
        };
        let (gateway, bridge) = (documented("gateway.toml")?, documented("bridge.toml")?);
        let text = |key: &str| documented::value(&gateway, key).unwrap_or_default().to_owned();
        let (user, prefix) = (text("username"), text("topic_prefix"));
        let mut mosquitto = Mosquitto::hosted(dir.path(), &user, PASSWORD)?;
        // Which subscriptions there are, and what is refused.
        mosquitto.set("log_type", "all");
        mosquitto.run()?;
        let mut hosted = settings();
        hosted.certificates = false;
        (hosted.gateway, hosted.bridge) = (gateway, bridge);
        let address = mosquitto.address();
        hosted.external = Some(External { gateway: address, bridge: address });
        let mut rig = Rig::in_dir(dir, hosted)?;
        let ca = rig.world.dir().join("certs/ca.pem").display().to_string();
        for program in ["gateway", "bridge"] {
            // In place of /etc/ssl/certs, where a public CA would be.
            rig.world.environment.push((program, "SSL_CERT_FILE", ca.clone()));
        }
        Ok(Hosted { rig, mosquitto, user, prefix })
    }

    /// What mosquitto says of those who try what the user may not.
    fn denied(&self) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(self.mosquitto.log())?;
        let denied = log.lines().filter(|line| line.contains("Denied ")).map(str::to_owned);
        Ok(denied.collect())
    }

    /// Every filter that somebody has subscribed to.
    fn filters(&self) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(self.mosquitto.log())?;
        // "<time>: <client id> 1 <filter>": it subscribed at QoS 1.
        let words = log.lines().filter_map(|line| line.split_once(": ")).map(|(_, said)| said);
        let filters = words.filter_map(|said| match said.split(' ').collect::<Vec<_>>()[..] {
            [_, "1", filter] => Some(filter.to_owned()),
            _ => None,
        });
        Ok(filters.collect())
    }
}

fn person(address: SocketAddr, ca: &str, user: &str, filters: Vec<String>) -> Options {
    Options {
        host: address.ip().to_string(),
        port: address.port(),
        tls: Tls::On { ca: Ca::File(ca.into()), client: None },
        login: Some(Login {
            username: user.to_owned(),
            password: Password::Text(PASSWORD.to_owned()),
        }),
        client_id: "a-person".to_owned(),
        subscriptions: filters,
        ..Options::default()
    }
}

#[test]
fn one_shared_user_below_devices_and_the_systems_cas_carry_the_whole_path() -> anyhow::Result<()> {
    let mut hosted = Hosted::start(true)?;
    for said in
        [hosted.rig.world.run_gateway(&["check"])?, hosted.rig.world.run_bridge(&["check"])?]
    {
        assert!(said.contains("good"), "{said}");
    }
    let (address, user) = (hosted.mosquitto.address(), hosted.user.clone());
    let ca = hosted.rig.world.dir().join("certs/ca.pem").display().to_string();
    let watch = |filters| Client::connect(person(address, &ca, &user, filters));
    let prefix = format!("{}/", hosted.prefix);
    let mosquitto = &mut hosted.mosquitto;
    let restart = &mut || {
        mosquitto.kill()?;
        mosquitto.run()
    };
    let mut path = Path { prefix: &prefix, retained_by_wildcard: true, watch: &watch, restart };
    path.walk(&mut hosted.rig)?;
    assert_eq!(hosted.denied()?, Vec::<String>::new());
    let filters = hosted.filters()?;
    // Three connections of each: 5 of the gateway, 1 and 6 of the bridge.
    assert!(filters.len() >= 36, "{filters:?}");
    let outside = |filter: &&String| !filter.starts_with("devices/");
    assert_eq!(filters.iter().filter(outside).collect::<Vec<_>>(), Vec::<&String>::new());
    Ok(())
}

#[test]
fn without_the_prefix_such_a_user_may_not_say_that_the_bridge_is_there() -> anyhow::Result<()> {
    let mut hosted = Hosted::start(false)?;
    hosted.rig.run(50.0)?;
    let denied = hosted.denied()?;
    println!("{denied:#?}");
    assert!(denied.iter().any(|line| line.contains("bridge/bridge/status")), "{denied:#?}");
    let filters = hosted.filters()?;
    assert!(filters.iter().any(|filter| filter == "bridge/+/status"), "{filters:?}");
    hosted.rig.settle()?;
    Ok(())
}

#[test]
fn a_hosted_broker_whose_ca_the_system_does_not_have_is_an_alert() -> anyhow::Result<()> {
    let mut hosted = Hosted::start(true)?;
    let others = tempfile::tempdir()?;
    fieldpost_certs::issue(others.path(), &fieldpost_certs::Request::default())?;
    let wrong = others.path().join("ca.pem").display().to_string();
    hosted.rig.world.environment.push(("gateway", "SSL_CERT_FILE", wrong));
    hosted.rig.world.start_bridge()?;
    hosted.rig.world.start_gateway()?;
    let message = hosted.rig.wait_raised("broker_refuses")?;
    println!("{message}");
    assert!(message.contains("not issued by the configured CA"), "{message}");
    // The bridge has the right one, and no certificate of its own.
    hosted.rig.world.wait_bridge_online(0)?;
    hosted.rig.world.stop_gateway()?;
    hosted.rig.world.environment.pop();
    hosted.rig.world.start_gateway()?;
    hosted.rig.plug(50.0)?;
    hosted.rig.wait_stored(50)?;
    hosted.rig.settle()?;
    Ok(())
}
